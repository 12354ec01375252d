"""The contract of the architectures again, under the attention implementations beside SDPA."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import test_conformance as contract
import test_further_images as turns
import torch
from cases import pruning
from reference_flash import Kernel
from tiny_models import MIXED, batch, tiny_llava
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations import flex_attention
from zoo import model_for

from pruners import pruned

#: plain; several axes; deepstack; stacked images
PLAIN = ("llava-llama", "qwen2-vl", "qwen3-vl", "smolvlm")
#: windows in all layers, and in some; both directions within an image, and within the prompt. FlashAttention
#: takes no such mask: transformers leaves both directions out, and we refuse rows longer than a window
MASKED = ("llava-mistral", "llava-qwen2", "gemma3", "paligemma")
PAIRS = [
    *((way, name) for way in ("eager", "flex_attention") for name in (*PLAIN, *MASKED)),
    *((way, name) for way in ("flash_attention_2", "flash_attention_3") for name in PLAIN),
]
RANKERS = ("attention:queries=last", "attention:queries=instruction,score_layer=next")
CHECKS: dict[str, Callable[[str, str], None]] = {
    "logits": contract.test_logits_equal_the_masked_unpruned_model,
    "batches": lambda name, ranker: contract.test_a_padded_batch_equals_its_samples(name, ranker, "left"),
    "decoding": contract.test_generate_equals_recomputation_without_a_cache,
    "keeping all": contract.test_keeping_all_changes_no_bit,
    "no trace": contract.test_nothing_is_left_behind,
}
# transformers' own way to call create_block_mask, and that flex attention is slow uncompiled
pytestmark = [
    pytest.mark.filterwarnings("ignore:_compile flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def attend(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Iterator[Callable[[Any, str], None]]:
    """Have a model's decoder attend in another way for one test: flex uncompiled, FlashAttention by reference."""

    def switch(model: Any, way: str) -> None:
        if "flash" in way:
            kernel.install(monkeypatch, way)
        monkeypatch.setattr(model.get_decoder().config, "_attn_implementation", way)

    with torch.compiler.set_stance("force_eager"):
        yield switch


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_the_contract_holds(attend: Any, way: str, name: str, ranker: str, check: str) -> None:
    attend(model_for(name), way)
    CHECKS[check](name, ranker)


@pytest.mark.parametrize("queries", ["last", "instruction"])
@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_kept_tokens_have_the_highest_scores(attend: Any, way: str, name: str, queries: str) -> None:
    attend(model_for(name), way)
    contract.test_kept_tokens_have_the_highest_scores_of_an_eager_run(name, f"attention:queries={queries}")


@pytest.mark.parametrize(("way", "name"), [pair for pair in PAIRS if pair[1] in turns.CALLED])
def test_a_further_image(attend: Any, way: str, name: str) -> None:
    attend(model_for(name), way)
    for first_is_pruned in (True, False):
        turns.test_logits_equal_the_masked_conversation(name, "attention:queries=last", first_is_pruned)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("way", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_gets_the_kept_tokens_of_each_sample(
    attend: Any, kernel: Kernel, way: str, side: str
) -> None:
    """One call per layer, one sequence per sample, with no padding; and one token each in decoding."""
    model = tiny_llava()
    attend(model, way)
    inputs, more = batch(model, MIXED, side), torch.tensor([[7]] * 4)
    with pruned(model, pruning("attention", "pdrop")) as handle:
        cache = model(**inputs).past_key_values
        kept = [[len(places) for places in layer] for layer in handle.trace.kept]
        assert kernel.calls == [[(count, count) for count in layer] for layer in kept]
        kernel.calls.clear()
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
        model(input_ids=more, attention_mask=mask, past_key_values=cache)
    assert kernel.calls == [[(1, count + 1) for count in layer] for layer in kept]


def test_flex_attention_gets_a_block_mask_for_the_kept_tokens(
    attend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, called = tiny_llava(), []
    attend(model, "flex_attention")
    original = flex_attention.compile_friendly_flex_attention

    def spy(query: Tensor, *args: Any, block_mask: BlockMask, **options: Any) -> Any:
        called.append((query.shape[2], block_mask.shape))
        return original(query, *args, block_mask=block_mask, **options)

    monkeypatch.setattr(flex_attention, "compile_friendly_flex_attention", spy)
    with pruned(model, pruning("attention", "pdrop")) as handle:
        model(**batch(model, MIXED))
    widths = [max(map(len, layer)) for layer in handle.trace.kept]
    assert called == [(width, (4, 1, width, width)) for width in widths]
