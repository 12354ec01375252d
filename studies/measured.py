"""What one evaluation gives, and what of it an Optuna trial keeps."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from pruners.costs import ModelShape, decoder_ratio, kv_ratio, vision_token_ratio
from pruners.costs.ratios import Samples
from pruners.pruning import Pruning
from studies.metrics import Metric
from studies.records import SampleRecord


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a pruning costs on samples of known lengths; nothing need be evaluated for it."""

    #: exact decoder-layer FLOPs over those of no pruning: the FLOPs ratio of studies and fronts
    decoder_ratio: float
    #: bytes of the KV cache after prefill over those of no pruning
    kv_ratio: float
    #: mean over layers of n_l / N
    vision_token_ratio: float
    #: visual tokens per decoder layer, mean over samples
    tokens_per_layer: Sequence[float]


def costs_of(pruning: Pruning | None, shape: ModelShape, samples: Samples) -> Costs:
    """Return the exact costs on samples of (visual tokens, text tokens)."""
    schedule = (1.0,) * shape.num_layers if pruning is None else pruning.schedule
    lengths = Counter(samples)
    return Costs(
        decoder_ratio=decoder_ratio(shape, schedule, lengths),
        kv_ratio=kv_ratio(shape, schedule, lengths),
        vision_token_ratio=vision_token_ratio(shape, schedule, lengths),
        tokens_per_layer=_mean_tokens(pruning, lengths, shape.num_layers),
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation(Costs):
    """One pruning (or none) on one split: per-sample results in the split's order, and what it costs."""

    #: what the metric makes of all scores, in [0, 1]
    accuracy: float
    #: one score per sample, in [0, 1]
    scores: Sequence[float]
    #: per sample, KL(unpruned || pruned) of the answer in nats; None where nobody computed it
    kl: Sequence[float] | None
    #: the evaluator's per-sample records, if they are at hand
    records: Sequence[SampleRecord] = ()
    #: whether it was remembered, not computed
    cached: bool = False
    #: what computing it took
    seconds: float = 0.0


def evaluation_of(
    pruning: Pruning | None,
    records: Sequence[SampleRecord],
    shape: ModelShape,
    metric: Metric,
    *,
    cached: bool,
    seconds: float,
) -> Evaluation:
    """Return the evaluation that per-sample records make, with its exact costs."""
    scores = tuple(record.score for record in records)
    costs = costs_of(pruning, shape, [(record.visual_tokens, record.text_tokens) for record in records])
    return Evaluation(
        **vars(costs),
        accuracy=metric.aggregate(scores),
        scores=scores,
        kl=tuple(record.kl for record in records),
        records=tuple(records),
        cached=cached,
        seconds=seconds,
    )


def _mean_tokens(
    pruning: Pruning | None, lengths: Counter[tuple[int, int]], layers: int
) -> tuple[float, ...]:
    """Mean number of visual tokens that enter each decoder layer."""
    samples, visual = lengths.total(), {visual for visual, _ in lengths}
    counts = {n: (n,) * layers if pruning is None else pruning.schedule.counts(n) for n in visual}
    return tuple(
        sum(counts[n][layer] * times for (n, _), times in lengths.items()) / samples
        for layer in range(layers)
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One evaluated pruning as its trial in the main study holds it."""

    #: the trial's number in the main study
    number: int
    #: the evaluation's key: equal integers, equal key
    key: str
    #: what first asked for it: a search's name, "baseline", "random" or "uniform"
    method: str
    #: one line for people
    label: str
    params: Mapping[str, Any]
    #: None: nothing was pruned
    pruning: Pruning | None
    accuracy: float
    #: `Evaluation.decoder_ratio`
    flops_ratio: float
    kv_ratio: float
    vision_token_ratio: float
    tokens_per_layer: tuple[float, ...]
    samples: int

    @property
    def point(self) -> tuple[float, float]:
        """(FLOPs ratio, accuracy), as `studies.front` wants it."""
        return self.flops_ratio, self.accuracy


def within_drop(tried: Iterable[Measured], baseline: float, max_drop: float) -> list[Measured]:
    """Return those that lose at most `max_drop` of `baseline`."""
    # 1e-12: 0.90 - 0.01 must not refuse an accuracy of 0.89
    return [measured for measured in tried if measured.accuracy >= baseline - max_drop - 1e-12]


def cheapest_within(tried: Sequence[Measured], baseline: float, max_drop: float) -> Measured:
    """Return the cheapest that loses at most `max_drop` of `baseline`, else the most accurate."""
    good = within_drop(tried, baseline, max_drop)
    if good:
        return min(good, key=lambda m: (m.flops_ratio, -m.accuracy, m.number))
    return min(tried, key=lambda m: (-m.accuracy, m.flops_ratio, m.number))


def accuracy_to_win(tried: Sequence[Measured], baseline: float, max_drop: float, ratio: float) -> float:
    """Return the accuracy with which `cheapest_within` would choose a trial of this FLOPs ratio.

    Infinite where one that costs no more is good enough already.
    """
    if not tried:
        return 0.0
    winner = cheapest_within(tried, baseline, max_drop)
    if not within_drop([winner], baseline, max_drop):
        return winner.accuracy
    return baseline - max_drop - 1e-12 if ratio < winner.flops_ratio else float("inf")


def asked_attrs(
    method: str, label: str, key: str, pruning: Pruning | None, costs: Costs, samples: int, split: str
) -> dict[str, Any]:
    """User attributes of a trial. Few: Optuna writes each with statements of its own."""
    schedule = {
        "label": label,
        "pruning": pruning.model_dump_json() if pruning else None,
        "tokens_per_layer": [float(count) for count in costs.tokens_per_layer],
        "kv_ratio": costs.kv_ratio,
        "vision_token_ratio": costs.vision_token_ratio,
        "split": split,
        "samples": samples,
    }
    return {"method": method, "key": key, "schedule": schedule}


def details(trial: FrozenTrial) -> dict[str, Any]:
    """User attributes, all in one level, as the first version wrote them."""
    attrs = trial.user_attrs
    return {**attrs, **attrs.get("schedule", {})}


def read_trial(trial: FrozenTrial) -> Measured:
    """Return a finished trial of the main study as a value."""
    attrs = details(trial)
    accuracy, flops_ratio = trial.values
    return Measured(
        number=trial.number,
        key=attrs["key"],
        method=attrs["method"],
        label=attrs["label"],
        params=trial.params,
        pruning=Pruning.model_validate_json(attrs["pruning"]) if attrs["pruning"] else None,
        accuracy=accuracy,
        flops_ratio=flops_ratio,
        kv_ratio=attrs["kv_ratio"],
        vision_token_ratio=attrs["vision_token_ratio"],
        tokens_per_layer=tuple(attrs["tokens_per_layer"]),
        samples=attrs["samples"],
    )
