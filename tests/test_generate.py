"""Decoding from a pruned cache against recomputation without any cache, token by token."""

from typing import Any

import pytest
import torch
from cases import case, pruning
from eager_oracle import embeds_of, masked_run
from oracle_models import MODELS, inputs_for, model_for
from tiny_models import IMAGE, MIXED, ONE, TWO_IMAGES, batch, single, tiny_llava
from torch import Tensor

from pruners import Pruning, pruned
from pruners.costs import ModelShape, prefill_cost

GREEDY = {"max_new_tokens": 4, "do_sample": False}
CASES = (
    "attention:queries=instruction",
    "attention:queries=last,score_layer=next",
    "topv",
    "attention, vtw",
    "attention, renumber",
    "random, layer 0",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def recomputed(model: Any, inputs: dict[str, Tensor], kept: Any, cut: Pruning, steps: int) -> Tensor:
    """The same answer, each token from a whole, unpruned, masked forward without a cache."""
    width = inputs["input_ids"].shape[1]
    renumber = width if cut.schedule.position_ids == "renumber" else 0
    ids, embeds = inputs["input_ids"], embeds_of(model, inputs)
    for step in range(steps):
        new = list(range(width, width + step))
        seen = [[places.tolist() + new for places in layer] for layer in kept]
        token = (
            masked_run(model, {"inputs_embeds": embeds}, seen, renumber)
            .logits[:, -1]
            .argmax(-1, keepdim=True)
        )
        ids = torch.cat([ids, token], 1)
        embeds = torch.cat([embeds, model.get_input_embeddings()(token)], 1)
    return ids


def recomputed_logits(model: Any, inputs: dict[str, Tensor], kept: Any, rows: Tensor) -> Tensor:
    """Logits (R, steps, V) of the answers in `rows` (R, T + steps), from one masked forward without a cache.

    `rows` repeats every prompt as often as `generate` did.
    """
    width = inputs["input_ids"].shape[1]
    new = list(range(width, rows.shape[1]))
    seen = [[places.tolist() + new for places in layer] for layer in kept]
    prompts = embeds_of(model, inputs).repeat_interleave(len(rows) // len(inputs["input_ids"]), 0)
    embeds = torch.cat([prompts, model.get_input_embeddings()(rows[:, width:])], 1)
    return masked_run(model, {"inputs_embeds": embeds}, seen).logits[:, width - 1 : -1]


@pytest.mark.parametrize("returned", [1, 3])
@pytest.mark.parametrize("name", ["attention:queries=instruction", "random, layer 0"])
def test_sampled_tokens_come_from_the_recomputed_distributions(model: Any, name: str, returned: int) -> None:
    inputs = batch(model, MIXED)
    torch.manual_seed(5)
    with pruned(model, case(name)) as handle:
        found = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=True,
            num_return_sequences=returned,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert len(found.sequences) == returned * len(MIXED)
    logits = recomputed_logits(model, inputs, handle.trace.kept, found.sequences)
    torch.testing.assert_close(torch.stack(found.logits, 1), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("name", ["attention:queries=last", "random, layer 0"])
def test_beams_are_worth_what_recomputation_says(model: Any, name: str, sample: bool) -> None:
    """A beam's score is the mean log-probability of its tokens: a cache row out of order would change it."""
    inputs = batch(model, MIXED)
    torch.manual_seed(5)
    with pruned(model, case(name)) as handle:
        found = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=sample,
            num_beams=4,
            num_return_sequences=2,
            output_scores=True,
            return_dict_in_generate=True,
        )
    # the trace has a row per beam, and beams of one prompt see the same tokens
    kept = [layer[::2] for layer in handle.trace.kept]
    logits = recomputed_logits(model, inputs, kept, found.sequences)
    answers = found.sequences[:, inputs["input_ids"].shape[1] :, None]
    worth = logits.log_softmax(-1).gather(2, answers).sum((1, 2)) / answers.shape[1]
    torch.testing.assert_close(found.sequences_scores, worth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model_name", MODELS)
def test_generate_equals_recomputation_token_by_token(model_name: str, name: str) -> None:
    model = model_for(model_name)
    cut = case(name, len(model.get_decoder().layers))
    for inputs_name in ("one", "padded left"):
        inputs = inputs_for(model_name)[inputs_name]
        with pruned(model, cut) as handle:
            generated = model.generate(**inputs, **GREEDY)
        steps = generated.shape[1] - inputs["input_ids"].shape[1]
        assert torch.equal(generated, recomputed(model, inputs, handle.trace.kept, cut, steps))


@pytest.mark.parametrize("name", CASES)
def test_kv_bytes_after_prefill_equal_the_formula(model: Any, name: str) -> None:
    cut = case(name)
    inputs = batch(model, TWO_IMAGES[:1])
    visual = int((inputs["input_ids"] == model.config.image_token_id).sum())
    with pruned(model, cut):
        cache = model(**inputs).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    text = inputs["input_ids"].shape[1] - visual
    per_token = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8 floats of 4 bytes
    assert held == per_token * sum(count + text for count in cut.schedule.counts(visual))
    assert held == prefill_cost(ModelShape.from_config(model.config), visual, text, cut.schedule).kv_bytes


def test_a_generated_placeholder_is_a_token_like_any_other(model: Any) -> None:
    """Without features to put in its place it is no image: nothing is pruned, and the trace stays."""
    inputs = batch(model, ONE)
    with pruned(model, pruning("attention", "vtw")) as handle:
        cache = model(**inputs).past_key_values
        trace = handle.trace
        model(input_ids=torch.tensor([[IMAGE]]), past_key_values=cache)
        assert handle.trace is trace
    assert [layer.get_seq_length() for layer in cache.layers] == [26, 26, 26, 10, 10, 10]


def test_two_calls_share_no_state(model: Any) -> None:
    first, second = batch(model, ONE, seed=1), batch(model, MIXED, seed=2)
    with pruned(model, pruning("attention", "pdrop")):
        alone = model.generate(**second, **GREEDY)
        model.generate(**first, **GREEDY)
        again = model.generate(**second, **GREEDY)
    assert torch.equal(alone, again)


@pytest.mark.parametrize("schedule", ["pdrop", "vtw", "from the start"])
def test_batches_generate_what_their_samples_do(model: Any, schedule: str) -> None:
    inputs = batch(model, MIXED)
    with pruned(model, pruning("random", schedule)):
        together = model.generate(**inputs, **GREEDY)
        for sample, question in enumerate(MIXED):
            if question.images:
                alone = model.generate(**single(model, inputs, sample), **GREEDY)
                assert torch.equal(together[sample, -4:], alone[0, -4:])


@pytest.mark.parametrize("beams", [1, 2])
def test_generate_from_embeds(model: Any, beams: int) -> None:
    """With beams, generate repeats the embeds; the ids are given once per prompt all the same."""
    inputs = batch(model, MIXED[:3])
    options = GREEDY | {"num_beams": beams}
    with pruned(model, pruning("attention", "pdrop")) as handle:
        expected = model.generate(**inputs, **options)
        handle.input_ids = inputs["input_ids"]
        embeds = {"inputs_embeds": embeds_of(model, inputs), "attention_mask": inputs["attention_mask"]}
        assert torch.equal(model.generate(**embeds, **options), expected[:, -4:])


def test_beam_search_in_a_batch_equals_single_runs(model: Any) -> None:
    inputs = batch(model, MIXED[:2])
    beams = GREEDY | {"num_beams": 3}
    with pruned(model, pruning("attention", "sigmoid")):
        together = model.generate(**inputs, **beams)
        for sample in range(2):
            alone = model.generate(**single(model, inputs, sample), **beams)
            assert torch.equal(together[sample, -4:], alone[0, -4:])
