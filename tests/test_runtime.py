"""Attach and detach: what stays as it was, and what is not computed."""

from typing import Any

import pytest
import torch
from cases import RANKERS, pruning
from model_state import hooks_of, same, state_of
from tiny_models import MIXED, ONE, batch, tiny_llava
from torch import Tensor, nn

from pruners import attach, pruned
from pruners.errors import ProfileError, UnsupportedCallError
from pruners.rankers import AttentionRanker, TopvRanker
from pruners.watch import Watch


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


class TestLeavesNothingBehind:
    @pytest.mark.parametrize("ranker", RANKERS)
    def test_after_a_block(self, model: Any, ranker: str) -> None:
        inputs = batch(model, ONE)
        unpruned = model(**inputs).logits  # transformers installs hooks of its own at the first call
        before = state_of(model)
        with pruned(model, pruning(ranker, "pdrop")):
            assert not same(before, state_of(model))
            model(**inputs)
        assert same(before, state_of(model))
        assert torch.equal(model(**inputs).logits, unpruned)

    @pytest.mark.parametrize("ranker", RANKERS)
    @pytest.mark.parametrize(("layer", "error"), [(0, KeyError), (3, KeyError), (0, KeyboardInterrupt)])
    def test_after_a_block_that_raises_inside_a_layer(
        self, model: Any, ranker: str, layer: int, error: type[BaseException]
    ) -> None:
        inputs = batch(model, ONE)
        model(**inputs)
        before = state_of(model)

        def stumble(*_: Any) -> None:
            raise error("in the middle of a forward")

        hook = model.get_decoder().layers[layer].self_attn.register_forward_pre_hook(stumble)
        with pytest.raises(error, match="middle"), pruned(model, pruning(ranker, "pdrop")):
            model(**inputs)
        hook.remove()
        assert same(before, state_of(model))

    def test_a_forward_that_failed_does_not_spoil_the_next(self, model: Any) -> None:
        inputs = batch(model, ONE)
        with pruned(model, pruning("attention", "pdrop")) as handle:
            expected = model(**inputs).logits
            with pytest.raises(UnsupportedCallError):
                model(**inputs, labels=inputs["input_ids"])
            with pytest.raises(ValueError, match="do not match"):
                model(**inputs | {"pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)})
            assert torch.equal(model(**inputs).logits, expected)
            assert len(handle.trace.kept) == 6

    def test_detach_twice(self, model: Any) -> None:
        handle = attach(model, pruning("uniform", "pdrop"))
        handle.detach()
        handle.detach()
        attach(model, pruning("uniform", "pdrop")).detach()

    def test_a_refused_attachment_leaves_no_hook(self, model: Any) -> None:
        before = hooks_of(model)
        with pytest.raises(ProfileError):
            attach(model, pruning("topv", "from the start"))
        assert hooks_of(model) == before


class TestKeepAll:
    @pytest.mark.parametrize("ranker", RANKERS)
    @pytest.mark.parametrize("questions", [ONE, MIXED])
    def test_equals_no_pruning_bit_for_bit(self, model: Any, ranker: str, questions: Any) -> None:
        inputs = batch(model, questions)
        unpruned = model(**inputs)
        with pruned(model, pruning(ranker, "all")) as handle:
            kept_all = model(**inputs)
        assert torch.equal(kept_all.logits, unpruned.logits)
        for ours, theirs in zip(
            kept_all.past_key_values.layers, unpruned.past_key_values.layers, strict=True
        ):
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)
        real = inputs["attention_mask"][0].nonzero()[:, 0]
        assert all(torch.equal(layer[0], real) for layer in handle.trace.kept)

    def test_generates_the_same(self, model: Any) -> None:
        inputs = batch(model, MIXED)
        options = {"max_new_tokens": 4, "do_sample": False}
        unpruned = model.generate(**inputs, **options)
        with pruned(model, pruning("attention", "all")):
            assert torch.equal(model.generate(**inputs, **options), unpruned)

    def test_layers_before_the_first_cut_are_untouched_too(self, model: Any) -> None:
        inputs = batch(model, MIXED)
        unpruned = model(**inputs).past_key_values.layers
        with pruned(model, pruning("attention", "vtw")):
            cache = model(**inputs).past_key_values.layers
        for layer in (0, 1, 2):
            assert torch.equal(cache[layer].keys, unpruned[layer].keys)


def test_sdpa_stays_on_and_no_full_matrix_is_made(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer runs SDPA once; one layer computes attention rows beside it, and only a few."""
    inputs = batch(tiny_llava(side=96), ONE)
    big = tiny_llava(side=96)
    calls, largest = [], []
    from pruners import scores

    genuine, rows = nn.functional.scaled_dot_product_attention, scores._attention_rows

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[0].shape)
        return genuine(*args, **kwargs)

    def measured(*args: Any) -> Any:
        weights, allowed = rows(*args)
        largest.append(weights.shape[1] / weights.shape[2])
        return weights, allowed

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(scores, "_attention_rows", measured)
    with pruned(big, pruning("attention", "fastv")):
        big(**inputs)
    decoder_calls = [shape for shape in calls if shape[1] == 4]
    assert len(decoder_calls) == 6
    assert len(largest) == 1
    assert largest[0] < 0.05


def test_a_cut_to_nothing_asks_no_ranker(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> None:
        raise AssertionError("a ranker was asked though nothing is left to choose")

    for ranker in (AttentionRanker, TopvRanker):
        monkeypatch.setattr(ranker, "score", asked)
    monkeypatch.setattr(Watch, "arm", asked)
    for ranker in ("attention", "attention:score_layer=next", "topv"):
        with pruned(model, pruning(ranker, "vtw")) as handle:
            model(**batch(model, MIXED))
        assert handle.trace.visual_tokens[3:] == ((0, 0, 0, 0),) * 3
