"""Calls and models that would come out wrong are refused, each with one line that says what to do."""

import threading
from typing import Any

import pytest
import torch
import zoo
from cases import pruning
from tiny_models import ONE, batch, tiny_llava
from torch import nn
from transformers import StaticCache

from pruners import attach, pruned
from pruners.errors import ProfileError, UnsupportedCallError, UnsupportedModelError
from pruners.layout import Entries
from pruners.masks import Narrowing


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def forward(**changes: Any) -> Any:
    """Call the model with some arguments changed; a function is called with the inputs."""
    return lambda model, inputs, _: model(
        **inputs | {name: value(inputs) if callable(value) else value for name, value in changes.items()}
    )


def generate(**options: Any) -> Any:
    return lambda model, inputs, _: model.generate(
        **inputs, **{"max_new_tokens": 4, "do_sample": False} | options
    )


def assisted(model: Any, inputs: Any, _: Any) -> None:
    """The assistant is the model itself: every guess is right, no cache is ever cropped."""
    model.generate(**inputs, max_new_tokens=6, do_sample=False, assistant_model=tiny_llava())


def looked_up(model: Any, inputs: Any, _: Any) -> None:
    """Guesses come from the prompt: some are wrong, and the cache is cropped."""
    row = torch.cat([inputs["input_ids"]] + 2 * [torch.tensor([[8, 9, 8, 9]])], 1)
    inputs = inputs | {"input_ids": row, "attention_mask": torch.ones_like(row)}
    model.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)


def in_training(model: Any, inputs: Any, _: Any) -> None:
    model.train()
    try:
        model(**inputs)
    finally:
        model.eval()


def with_prompt_lengths(*lengths: int) -> Any:
    def call(model: Any, inputs: Any, handle: Any) -> None:
        handle.prompt_lengths = torch.tensor(lengths)
        model(**inputs)

    return call


def cropped(model: Any, inputs: Any, _: Any) -> None:
    cache = model(**inputs).past_key_values
    cache.crop(-1)
    model(input_ids=torch.tensor([[9]]), past_key_values=cache)


def static_cache(model: Any, inputs: Any, _: Any) -> None:
    model(**inputs, past_key_values=StaticCache(config=model.config.get_text_config(), max_cache_len=40))


#: Everything about a call that is refused: (what, call(model, inputs, handle), what the one line says)
REFUSED: list[tuple[str, Any, str]] = [
    ("labels", forward(labels=lambda inputs: inputs["input_ids"]), "labels do not fit"),
    ("sequence packing", forward(cu_seq_lens_q=torch.tensor([0, 12, 25])), "cu_seq_lens_q means several sequences"),
    (
        "sequence packing by positions",
        forward(attention_mask=None, position_ids=torch.arange(25)[None] % 13),
        "position_ids with jumps",
    ),
    ("attention weights", forward(output_attentions=True), "output_attentions=True cannot"),
    ("hidden states", forward(output_hidden_states=True), "output_hidden_states=True cannot"),
    ("logits by row", forward(logits_to_keep=torch.tensor([3])), "logits_to_keep as a tensor"),
    (
        "mask of another width",
        forward(attention_mask=lambda inputs: inputs["attention_mask"][:, 1:]),
        "attention_mask has 24 columns",
    ),
    ("mask in four dimensions", forward(attention_mask=torch.ones(1, 1, 25, 25, dtype=torch.bool)), "two dimensions"),
    ("training mode", in_training, r"model.eval\(\)"),
    ("the decoder alone", lambda model, inputs, _: model.get_decoder()(input_ids=inputs["input_ids"]), "not its decoder"),
    ("prompt_lengths amid the image", with_prompt_lengths(7), "amid the visual tokens"),
    ("prompt_lengths of another batch", with_prompt_lengths(20, 20), "one number for each of 1 rows"),
    ("generation without a cache", generate(use_cache=False), "answer tokens must not rank"),
    ("chunked prefill", generate(prefill_chunk_size=8), "chunked prefill must not split"),
    ("assisted decoding", assisted, "as in assisted decoding"),
    ("prompt lookup", looked_up, "assisted decoding"),
    ("a cropped cache", cropped, "was changed since its prefill"),
    ("a static cache", static_cache, "a StaticCache gives"),
    ("a static cache, by name", generate(cache_implementation="static"), "a StaticCache gives"),
    (
        "a quantised cache",
        generate(cache_implementation="quantized", cache_config={"backend": "fp8"}),
        "a QuantizedCache gives",
    ),
]  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize("schedule", ["pdrop", "from the start"])
    @pytest.mark.parametrize(
        ("call", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
    )
    def test_calls_that_would_come_out_wrong(
        self, model: Any, call: Any, message: str, schedule: str
    ) -> None:
        """One line, before any wrong token; and the next call is served.

        With layer 0 pruned, the model itself counts positions wrongly, and the refusal may speak of these.
        """
        inputs = batch(model, ONE)
        with pruned(model, pruning("uniform", schedule)) as handle:
            expected = model(**inputs).logits
            with pytest.raises(
                UnsupportedCallError, match=message if schedule == "pdrop" else None
            ) as refusal:
                call(model, inputs, handle)
            assert "\n" not in str(refusal.value)
            assert torch.equal(model(**inputs).logits, expected)

    def test_attaching_twice(self, model: Any) -> None:
        with (
            pruned(model, pruning("attention", "pdrop")),
            pytest.raises(UnsupportedCallError, match="is pruned already"),
        ):
            attach(model, pruning("uniform", "pdrop"))

    def test_two_threads_at_once(self, model: Any) -> None:
        inputs, errors = batch(model, ONE), []

        def call() -> None:
            try:
                model(**inputs)
            except UnsupportedCallError as error:
                errors.append(str(error))

        def call_from_elsewhere(*_: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                other = threading.Thread(target=call)
                other.start()
                other.join()

        mlp = model.get_decoder().layers[3].mlp
        with pruned(model, pruning("attention", "pdrop")), mlp.register_forward_pre_hook(call_from_elsewhere):
            model(**inputs)
        assert errors == ["two calls at once on one pruned model: give each thread its own model"]

    def test_wrong_depth(self, model: Any) -> None:
        with pytest.raises(ProfileError, match="has 8 rates and the model 6 decoder layers"):
            attach(model, pruning("attention", "pdrop", layers=8))

    @pytest.mark.parametrize("ranker", ["attention", "topv", "attention:score_layer=next", "knorm", "dart"])
    def test_scores_before_there_are_any(self, model: Any, ranker: str) -> None:
        with pytest.raises(ProfileError, match=r"prunes layer 0 to 0\.75"):
            attach(model, pruning(ranker, "from the start"))

    def test_models_of_another_structure(self, model: Any) -> None:
        with pytest.raises(UnsupportedModelError, match=r"no get_decoder\(\)\.layers"):
            attach(nn.Linear(2, 2), pruning("attention", "pdrop"))
        with pytest.raises(UnsupportedModelError, match="has no image_token_id"):
            attach(model.get_decoder(), pruning("attention", "pdrop"))

    def test_attention_that_takes_other_masks(self) -> None:
        model = tiny_llava()
        model.get_decoder().config._attn_implementation = "paged|sdpa"
        with pytest.raises(UnsupportedModelError, match=r"'paged\|sdpa' cannot be pruned"):
            attach(model, pruning("attention", "pdrop"))


class TestFamilies:
    def test_layers_before_the_last_injection(self) -> None:
        with pytest.raises(ProfileError, match="keep 1 in layers 0 to 2"):
            attach(zoo.model_for("qwen3-vl"), pruning("attention", "pdrop"))

    def test_positions_of_several_axes_are_not_renumbered(self) -> None:
        with pytest.raises(ProfileError, match="'renumber' means nothing"):
            attach(zoo.model_for("qwen2-vl"), pruning("attention", "pdrop", position_ids="renumber"))

    def test_positions_of_several_axes_behind_a_pruned_layer_0(self) -> None:
        model = zoo.model_for("qwen2-vl")
        with pruned(model, pruning("random", "from the start")):
            cache = model(**zoo.batch("qwen2-vl", zoo.ONE)).past_key_values
            with pytest.raises(UnsupportedCallError, match="give position_ids, as generate does"):
                model(input_ids=torch.tensor([[5]]), past_key_values=cache)

    def test_padding_on_the_right_in_a_cache_with_a_window(self) -> None:
        inputs = zoo.batch("llava-mistral", zoo.MIXED, "right")
        model = zoo.model_for("llava-mistral")
        with (
            pruned(model, pruning("random", "pdrop")),
            pytest.raises(UnsupportedCallError, match="pad on the left"),
        ):
            model.generate(**inputs, max_new_tokens=3)

    def test_flash_attention_counts_a_window_in_what_is_left(self) -> None:
        rows = torch.arange(8)[None]
        keys = Entries.of(torch.ones(1, 8, dtype=torch.bool), 0, full=True)
        assert Narrowing(rows, 0, keys, "flat", 16, None).apply({}, 16, torch.float32)
        with pytest.raises(UnsupportedCallError, match="window of 15 tokens in what pruning leaves of 16"):
            Narrowing(rows, 0, keys, "flat", 15, None).apply({}, 16, torch.float32)
