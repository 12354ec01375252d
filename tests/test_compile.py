"""A pruned prefill under torch.compile: the same numbers, whichever came first, and unpruned again afterwards."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import pruning
from tiny_models import MIXED, ONE, batch, tiny_llava

from pruners import pruned

LAYERS = 3
pytestmark = [
    pytest.mark.slow,
    # dynamo tells of every graph break and recompilation
    pytest.mark.filterwarnings("ignore"),
]


def compiled(model: Any) -> Any:
    """The "eager" backend runs what dynamo captured: nothing of this depends on how kernels are made."""
    return torch.compile(model, backend="eager")


def forward_compiled(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def layers_compiled(model: Any) -> Any:
    for layer in model.get_decoder().layers:
        layer.compile(backend="eager")
    return model


@pytest.mark.parametrize("compile_", [compiled, forward_compiled, layers_compiled])
@pytest.mark.parametrize("ranker", ["attention", "topv"])
def test_a_model_compiled_and_called_before_it_is_pruned(ranker: str, compile_: Callable[[Any], Any]) -> None:
    model, cut = tiny_llava(layers=LAYERS), pruning(ranker, "pdrop", layers=LAYERS)
    inputs = batch(model, ONE)
    with torch.no_grad():
        unpruned = model(**inputs).logits
        with pruned(model, cut) as handle:
            expected, kept = model(**inputs).logits, handle.trace.kept
        assert expected.shape != unpruned.shape
        fast = compile_(model)
        torch.testing.assert_close(fast(**inputs).logits, unpruned, atol=1e-5, rtol=0)
        with pruned(fast, cut) as handle:
            torch.testing.assert_close(fast(**inputs).logits, expected, atol=1e-5, rtol=0)
            assert all(
                torch.equal(ours[0], theirs[0]) for ours, theirs in zip(handle.trace.kept, kept, strict=True)
            )
        torch.testing.assert_close(fast(**inputs).logits, unpruned, atol=1e-5, rtol=0)


def test_nothing_is_forgotten_where_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cut = tiny_llava(layers=LAYERS), pruning("attention", "pdrop", layers=LAYERS)
    torch.compiler.reset()
    monkeypatch.setattr(torch.compiler, "reset", lambda: pytest.fail("reset without need"))
    with pruned(model, cut):
        model(**batch(model, ONE))


@pytest.mark.skipif(shutil.which("g++") is None, reason="kernels for the CPU are made by a C++ compiler")
def test_flex_attention_compiled_as_transformers_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all compiled code it alone is not made anew for every handle."""
    model, cut = tiny_llava(), pruning("attention", "fastv")
    inputs = batch(model, MIXED)
    torch.compiler.reset()
    monkeypatch.setattr(torch.compiler, "reset", lambda: pytest.fail("reset without need"))
    found = {}
    for name in ("sdpa", "flex_attention"):
        model.get_decoder().config._attn_implementation = name
        with torch.no_grad(), pruned(model, cut) as handle:
            logits = model(**inputs, use_cache=False).logits
            found[name] = [
                logits[row, handle.trace.rows(row, places)]
                for row, places in enumerate(handle.trace.kept[-1])
            ]
    torch.testing.assert_close(found["flex_attention"], found["sdpa"], atol=1e-4, rtol=0)
