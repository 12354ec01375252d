"""Random prunings of random batches against the masked, unpruned model: logits, kept sets, decoding.

FUZZ_CASES sets their number; it is the same cases every time:

    FUZZ_CASES=5000 pytest tests/test_fuzz.py --timeout 0
"""

import os
from typing import Any

import torch
from eager_oracle import Choice, masked_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_models import TINY, model_for
from test_oracle import choices, kept_lists, renumbered
from tiny_models import Question, batch
from torch import Tensor

from pruners import pruned
from pruners.pruning import KeepSchedule, Pruning, Recovery
from pruners.rankers import (
    BEFORE_ANY_LAYER,
    AttentionRanker,
    DartRanker,
    DivPruneRanker,
    KeyNormRanker,
    RandomRanker,
    Ranker,
    TopvRanker,
    UniformRanker,
)

CASES = int(os.environ.get("FUZZ_CASES", "200"))
LAYERS = 6
share = st.floats(0, 1)
few = st.integers(0, 6)
rankers = st.one_of(
    st.builds(
        AttentionRanker,
        queries=st.sampled_from(["last", "instruction", "all"]),
        score_layer=st.sampled_from(["previous", "next"]),
    ),
    st.builds(
        TopvRanker,
        alpha=st.floats(0.1, 1),
        beta=share,
        gamma=share,
        sigma=st.floats(0.5, 4),
        epsilon=st.floats(0.05, 1),
        rho=st.sampled_from([0.0, 0.1, 1.0]),
        iterations=st.integers(1, 4),
    ),
    st.builds(DivPruneRanker),
    st.builds(KeyNormRanker),
    st.builds(DartRanker, visual_pivots=st.integers(1, 9), text_pivots=st.integers(0, 5)),
    st.builds(RandomRanker, seed=few),
    st.builds(UniformRanker),
)


@st.composite
def prunings(draw: st.DrawFn) -> Pruning:
    """Rates that fall anywhere; layer 0 is cut where the ranker can."""
    ranker: Ranker = draw(rankers)
    free = LAYERS if ranker.signal in BEFORE_ANY_LAYER else LAYERS - 1
    rates = draw(st.lists(share | st.sampled_from([0.0, 0.5, 1.0]), min_size=free, max_size=free))
    schedule = KeepSchedule(
        keep_rates=(*[1.0] * (LAYERS - free), *sorted(rates, reverse=True)),
        rounding=draw(st.sampled_from(["nearest", "floor"])),
        position_ids=draw(st.sampled_from(["keep", "renumber"])),
        min_tokens=draw(st.sampled_from([0, 0, 3])),
    )
    every = draw(st.none() | st.integers(2, 6))
    return Pruning(ranker=ranker, schedule=schedule, recovery=Recovery(every=every) if every else None)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Up to two images with text before, between and behind them, or none at any of these places."""
    images = draw(st.integers(0, 2))
    return Question((*draw(st.lists(few, min_size=images, max_size=images)), draw(few)), images=images)


batches = st.lists(questions(), min_size=1, max_size=4).filter(lambda row: any(q.images for q in row))


@given(
    st.sampled_from(list(TINY)), prunings(), batches, st.sampled_from(["left", "right"]), st.integers(0, 9)
)
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_a_random_pruning_equals_the_masked_model(
    name: str, pruning: Pruning, asked: list[Question], side: str, seed: int
) -> None:
    model = model_for(name)
    inputs = batch(model, tuple(asked), side, seed)
    words = torch.randint(2, 50, (len(asked), 2), generator=torch.Generator().manual_seed(seed))
    longer = {
        "input_ids": torch.cat([inputs["input_ids"], words], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(words)], 1),
    }
    with torch.no_grad(), pruned(model, pruning) as handle:
        prefill = model(**inputs)
        # one word after the other, as decoding brings them
        cache, mask = prefill.past_key_values, longer["attention_mask"]
        decoded = [
            model(input_ids=word, attention_mask=seen, past_key_values=cache).logits
            for word, seen in ((words[:, :1], mask[:, :-1]), (words[:, 1:], mask))
        ]
    kept = kept_lists(handle.trace)
    width = inputs["input_ids"].shape[1]
    all_kept = [[[*places, width, width + 1] for places in layer] for layer in kept]
    oracle = masked_run(model, inputs | longer, all_kept, renumbered(pruning, inputs)).logits
    for sample, places in enumerate(handle.trace.kept[-1]):
        found = prefill.logits[sample, handle.trace.rows(sample, places)]
        torch.testing.assert_close(found, oracle[sample, places], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(decoded, 1), oracle[:, width:], atol=1e-4, rtol=1e-4)
    assert_best(model, pruning, inputs, kept)


def assert_best(model: Any, pruning: Pruning, inputs: dict[str, Tensor], kept: list[list[list[int]]]) -> None:
    """Every reduction kept what the oracle's scores put first, but for near ties."""
    if isinstance(pruning.ranker, RandomRanker | UniformRanker):
        return
    for ours, choice in choices(model, pruning, inputs, kept):
        if choice.gap > _tolerance(choice):
            assert ours == choice.kept


def _tolerance(choice: Choice) -> float:
    """What float32 may do to the scores: a hundred of its steps."""
    finite = [abs(score) for score in choice.scores.values() if score > -torch.inf]
    return 100 * torch.finfo(torch.float32).eps * max([1e-2, *finite])
