"""The scores that rankers are given beside fused attention are those of an eager run that returns its weights."""

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ARCHITECTURES, LAYERS, batch, model_for

from pruners import Pruning, pruned
from pruners.families import describe
from pruners.pruning import KeepSchedule
from pruners.rankers import AttentionRanker, parse_ranker
from pruners.rankers.base import RankingInputs

QUERIES = ("last", "instruction", "all")


def given_scores(
    name: str, ranker: str, layer: int, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> RankingInputs:
    """What the attention ranker is given before `layer`, the first that is reduced."""
    seen: list[RankingInputs] = []
    score = AttentionRanker.score

    def record(self: AttentionRanker, given: RankingInputs) -> Tensor:
        seen.append(given)
        return score(self, given)

    monkeypatch.setattr(AttentionRanker, "score", record)
    rates = (1,) * layer + (0.5,) * (LAYERS - layer)
    cut = Pruning(ranker=parse_ranker(ranker), schedule=KeepSchedule(keep_rates=rates))
    with pruned(model_for(name), cut), torch.no_grad():
        model_for(name)(**inputs)
    return seen[0]


def eager_weights(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """(B, T, T) per decoder layer, mean over heads, from `output_attentions=True`."""
    modules = [module for layer in describe(model).layers for module in layer.modules()]
    configs = {id(module.config): module.config for module in modules if hasattr(module, "config")}.values()
    for config in configs:
        assert config._attn_implementation == "sdpa"
        config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            found = model(**inputs, output_attentions=True)
    finally:
        for config in configs:
            config._attn_implementation = "sdpa"
    weights = getattr(found, "attentions", None) or found.language_model_outputs.attentions
    return tuple(layer.float().mean(1) for layer in weights)


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("score_layer", ["previous", "next"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_equal_those_of_an_eager_run(
    name: str, score_layer: str, queries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kind = model_for(name), ARCHITECTURES[name]
    layer, compared = describe(model).traits.first_prunable, 0
    for side in ("left", "right"):
        inputs = batch(name, kind.mixed, side)
        ranker = f"attention:queries={queries},score_layer={score_layer}"
        given = given_scores(name, ranker, layer, inputs, monkeypatch)
        weights = eager_weights(model, inputs)[layer - (score_layer == "previous")]
        assert given.attention is not None
        for sample, (ids, real) in enumerate(
            zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        ):
            images = [place for place in real.nonzero()[:, 0].tolist() if ids[place] == kind.placeholder]
            if not images:
                continue
            rows = weights[sample, voters(queries, real, images)][:, images]
            # a row counts for the tokens that it can see: those behind it have no weight at all
            expected = rows.sum(0) / (rows > 0).sum(0).clamp(min=1)
            found = given.attention[sample, given.valid[sample]]
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
            compared += 1
    assert compared >= 2


def voters(queries: str, real: Tensor, images: list[int]) -> list[int]:
    """The last token, the text behind the last visual token, or every token."""
    row = real.nonzero()[:, 0].tolist()
    after = [place for place in row if place > images[-1]]
    return {"last": row[-1:], "instruction": after or row[-1:], "all": row}[queries]
