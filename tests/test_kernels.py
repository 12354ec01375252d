"""What ranking costs beside the model's attention: which kernels run, how often, and how much they allocate."""

import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from cases import pruning
from tiny_models import MIXED, Question, batch, tiny_llava
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pruners import pruned, scores, watch
from pruners.scores import attention_received

FUSED = "_scaled_dot_product_flash_attention_for_cpu"
FEW_ROWS = [
    "attention:queries=last",
    "attention:queries=instruction",
    "attention:queries=last,score_layer=next",
    "attention:queries=instruction,score_layer=next",
    "knorm",
    "dart",
]


class Operations(TorchDispatchMode):
    """Counts the operators that run, and keeps the number of elements that their results take."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.results: list[tuple[str, torch.dtype, int]] = []

    @property
    def largest(self) -> int:
        """The most elements of one result."""
        return max(size for *_, size in self.results)

    def squares(self, kind: torch.dtype) -> Counter[str]:
        """Which operators made a result of this type with an element for every pair of tokens, and how often."""
        return Counter(name for name, dtype, size in self.results if dtype == kind and size >= TOKENS**2)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        given = {part.untyped_storage().data_ptr() for part in args if isinstance(part, Tensor)}
        for part in output if isinstance(output, tuple | list) else (output,):
            # a view takes no memory
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() not in given:
                self.results.append((name, part.dtype, part.untyped_storage().nbytes() // part.itemsize))
        return output


#: of two square images, the larger with four times the tokens
SMALL, LARGE = 64, 128
#: the larger image in its row of text
TOKENS = (LARGE // 8) ** 2 + 1 + 3 + 5
ALONE = (Question((3, 5)),)
#: the second sample is padded
PADDED = (*ALONE, Question((1, 2)))


@cache
def model_of(side: int, attention: str = "sdpa") -> Any:
    return tiny_llava(side=side, attention=attention)


def operations(
    ranker: str | None, side: int, attention: str = "sdpa", questions: tuple[Question, ...] = ALONE
) -> Operations:
    """One prefill with images of (side / 8) ** 2 visual tokens."""
    model = model_of(side, attention)
    inputs = batch(model, questions)
    cut = pruning(ranker or "uniform", "fastv" if ranker else "all")
    with torch.no_grad(), pruned(model, cut), Operations() as seen:
        model(**inputs)
    return seen


class TestMemory:
    @pytest.mark.parametrize("ranker", FEW_ROWS)
    def test_grows_with_the_tokens_and_not_with_their_square(self, ranker: str) -> None:
        """Beside no pruning: a prefill in which tokens are ranked allocates nothing larger."""
        small, large = (operations(ranker, side).largest for side in (SMALL, LARGE))
        assert large <= operations(None, LARGE).largest
        assert large <= 4.2 * small

    def test_an_attention_matrix_would_be_seen(self) -> None:
        assert operations(None, LARGE, "eager").largest >= 4 * TOKENS**2 > 4 * operations(None, LARGE).largest

    @pytest.mark.parametrize("ranker", FEW_ROWS)
    def test_a_padded_batch_allocates_no_matrix_but_the_models_own(self, ranker: str) -> None:
        """transformers makes a bool mask (B, 1, n, n) for padded rows, and SDPA makes floats of it at each call.

        So does the model unpruned, in six layers. Here two layers see all tokens, and they alone do it: no score
        and no mask of a pruned layer has a number for every pair of tokens. Of the bool mask the rows of kept
        tokens are taken once.
        """
        unpruned, ranked = (operations(name, LARGE, questions=PADDED) for name in (None, ranker))
        own = {"le": 1, "bitwise_and": 2}
        assert (unpruned.squares(torch.float32), unpruned.squares(torch.bool)) == ({"where": 6}, own)
        assert (ranked.squares(torch.float32), ranked.squares(torch.bool)) == (
            {"where": 2},
            own | {"index_select": 1},
        )
        assert not ranked.squares(torch.int64)
        assert ranked.largest == unpruned.largest == 2 * TOKENS**2

    def test_the_mask_of_a_padded_batch_is_the_models_own(self) -> None:
        model, masks = model_of(LARGE), []
        spies = [
            layer.register_forward_pre_hook(
                lambda _layer, _args, given: masks.append(given["attention_mask"]), with_kwargs=True
            )
            for layer in model.get_decoder().layers
        ]
        with torch.no_grad():
            model(**batch(model, PADDED))
        for spy in spies:
            spy.remove()
        assert {id(mask) for mask in masks} == {id(masks[0])}
        assert (masks[0].dtype, masks[0].shape) == (torch.bool, (2, 1, TOKENS, TOKENS))

    def test_all_rows_are_taken_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert operations("attention:queries=all", LARGE).largest >= 4 * TOKENS**2
        monkeypatch.setattr(scores, "_BLOCK", 16 * 4 * TOKENS)
        bounded = operations("attention:queries=all", LARGE)
        assert bounded.largest <= max(16 * 4 * TOKENS, operations(None, LARGE).largest)

    @pytest.mark.parametrize("keys", [64, 512])
    def test_work_is_rows_times_keys_times_width(self, keys: int) -> None:
        samples, heads, groups, width, rows = 2, 4, 2, 8, 3
        query = torch.randn(samples, heads, keys, width)
        key = torch.randn(samples, groups, keys, width)
        places = torch.arange(keys - rows, keys).expand(samples, -1)
        visual = torch.arange(keys // 2).expand(samples, -1)
        with FlopCounterMode(display=False) as counter:
            attention_received(query, key, None, places, torch.ones_like(places) > 0, visual)
        assert counter.get_total_flops() == 2 * samples * heads * rows * keys * width


class TestKernels:
    @pytest.mark.parametrize("ranker", [*FEW_ROWS, "attention:queries=all", "topv", "divprune"])
    def test_the_fused_kernel_serves_every_layer(self, ranker: str) -> None:
        """Vision layers and decoder layers: no one falls back to a matrix product and a softmax."""
        plain, ranked = operations(None, SMALL), operations(ranker, SMALL)
        assert plain.calls[FUSED] == ranked.calls[FUSED] == 2 + 6
        matrices = "_scaled_dot_product_attention_math", "_scaled_dot_product_efficient_attention"
        assert not any(seen.calls[name] for seen in (plain, ranked) for name in matrices)

    @pytest.mark.parametrize("ranker", [*FEW_ROWS, "attention:queries=all"])
    def test_padded_batches_call_sdpa_in_every_layer_and_eager_in_none(
        self, ranker: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, called = tiny_llava(), []
        sdpa = torch.nn.functional.scaled_dot_product_attention

        def spy(*args: Any, **kwargs: Any) -> Any:
            called.append(args[0].shape[2])
            return sdpa(*args, **kwargs)

        def eager(*_: Any, **__: Any) -> Any:
            raise AssertionError("eager attention was called")

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        module = sys.modules[type(model.get_decoder().layers[0].self_attn).__module__]
        monkeypatch.setattr(module, "eager_attention_forward", eager)
        with torch.no_grad(), pruned(model, pruning(ranker, "pdrop")) as handle:
            model(**batch(model, MIXED))
        assert called[2:] == [max(map(len, layer)) for layer in handle.trace.kept]

    @pytest.mark.parametrize(
        ("schedule", "paying"), [("pdrop", 3), ("fastv", 1), ("vtw", 0), ("sigmoid", 3), ("all", 0)]
    )
    @pytest.mark.parametrize(
        ("ranker", "measure"),
        [
            ("attention", "attention_received"),
            ("attention:queries=all,score_layer=next", "attention_received"),
            ("knorm", "key_norms"),
            ("dart", "key_norms"),
        ],
    )
    def test_only_layers_that_feed_a_reduction_pay(
        self, ranker: str, measure: str, schedule: str, paying: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, calls = tiny_llava(), []
        original = getattr(watch, measure)

        def counted(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(measure)
            return original(*args, **kwargs)

        monkeypatch.setattr(watch, measure, counted)
        with torch.no_grad(), pruned(model, pruning(ranker, schedule)):
            cache = model(**batch(model, MIXED)).past_key_values
            model(input_ids=torch.tensor([[9]] * 4), past_key_values=cache)
        assert len(calls) == paying
