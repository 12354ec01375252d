"""What the benches share: measure prunings of a random model beside no pruning, and lay the numbers out.

Every ratio is between runs of the same round (`searchsvc.speed.take_turns`): the median over rounds with its
95 % interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.table import Table

from bench.models import Shape
from bench.output import console
from bench.overhead import Overhead, overhead
from bench.published import Eager, output_attentions
from pruners import Pruning, pruned
from pruners.costs import Cost, ModelShape, prefill_cost
from pruners.rankers import AttentionRanker
from searchsvc.speed import Inputs, Run, Way, peak_memory, pruned_by, ratio, take_turns, unpruned
from studies.intervals import Interval

PLAIN = "no pruning"
_OPPONENTS: dict[Eager, str] = {
    "output_attentions": "output_attentions=True",
    "in scoring layers": "eager in scoring layers",
}
EAGER: tuple[Eager, ...] = tuple(_OPPONENTS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pruning at one batch size."""

    schedule: str
    batch: int
    #: exact FLOPs of the decoder layers over those of no pruning
    flops_ratio: float
    prefill_ms: float
    prefill_ratio: Interval
    #: realised speed-up over the promised one: flops_ratio / prefill_ratio
    of_promise: Interval
    decode_ratio: Interval
    #: peak memory of a prefill, MiB, and over that of no pruning (None where it cannot be read)
    memory_mib: float | None
    memory_ratio: float | None
    #: bytes that the cache holds; equal to the formula's, or the bench stops
    kv_bytes: int
    kv_ratio: float
    #: shares of a prefill
    overhead: Overhead
    #: how many times faster than the same schedule by eager attention that returns its weights
    faster_than_eager: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model and a batch for it; `eager` asks for the opponents as well."""

    model: Any
    shape: Shape
    inputs: Inputs
    eager: bool = True

    @property
    def batch(self) -> int:
        """B."""
        return int(self.inputs["input_ids"].shape[0])

    def cost(self, pruning: Pruning | None = None) -> Cost:
        """Of one sample."""
        counted = ModelShape.from_config(self.model.config)
        schedule = None if pruning is None else pruning.schedule
        return prefill_cost(counted, self.shape.visual_tokens, self.shape.text_tokens, schedule)

    def opponents(self, pruning: Pruning) -> dict[str, Way]:
        """The same schedule from eager attention; TopV has none."""
        if not self.eager or not isinstance(pruning.ranker, AttentionRanker):
            return {}
        counts, (before, after) = pruning.schedule.counts(self.shape.visual_tokens), self.shape.text
        rows = 1 if pruning.ranker.queries == "last" else after
        return {eager: partial(output_attentions, self.model, counts, before, rows, eager) for eager in EAGER}


def bench(setting: Setting, prunings: Mapping[str, Pruning], rounds: int) -> tuple[float, list[Row]]:
    """Return milliseconds of the unpruned prefill, and a row per pruning."""
    model, inputs = setting.model, setting.inputs
    ours: dict[str, Way] = {name: pruned_by(model, pruning) for name, pruning in prunings.items()}
    ways = {PLAIN: unpruned} | ours
    memory = {name: peak_memory(model, inputs, way) for name, way in ways.items()}
    runs = take_turns(model, inputs, ways, rounds)
    # opponents come last: their large weights change how the allocator serves what shares a round with them
    against = {name: _against(setting, pruning, rounds) for name, pruning in prunings.items()}
    rows = [_row(setting, name, pruning, runs, memory, against[name]) for name, pruning in prunings.items()]
    return 1000 * median(run.prefill for run in runs[PLAIN]), rows


def _against(setting: Setting, pruning: Pruning, rounds: int) -> dict[str, Interval]:
    """How many times faster a pruning is than each of its opponents, in rounds of their own."""
    opponents = setting.opponents(pruning)
    if not opponents:
        return {}
    ways = {"ours": pruned_by(setting.model, pruning), **opponents}
    prefill = {
        name: [run.prefill for run in runs]
        for name, runs in take_turns(setting.model, setting.inputs, ways, rounds).items()
    }
    return {eager: ratio(prefill[eager], prefill["ours"]) for eager in opponents}


def _row(
    setting: Setting,
    name: str,
    pruning: Pruning,
    runs: Mapping[str, Sequence[Run]],
    memory: Mapping[str, float | None],
    against: dict[str, Interval],
) -> Row:
    cost, whole = setting.cost(pruning), setting.cost()
    prefill = {way: [run.prefill for run in taken] for way, taken in runs.items()}
    found = ratio(prefill[name], prefill[PLAIN])
    ours, plain = memory[name], memory[PLAIN]
    return Row(
        schedule=name,
        batch=setting.batch,
        flops_ratio=cost.decoder_ratio,
        prefill_ms=1000 * median(prefill[name]),
        prefill_ratio=found,
        of_promise=_inverse(found, cost.decoder_ratio),
        decode_ratio=ratio([run.decode for run in runs[name]], [run.decode for run in runs[PLAIN]]),
        memory_mib=ours,
        memory_ratio=ours / plain if ours and plain else None,
        kv_bytes=_kv_bytes(setting, pruning, setting.batch * cost.kv_bytes),
        kv_ratio=cost.kv_bytes / whole.kv_bytes,
        overhead=overhead(setting.model, setting.inputs, pruning),
        faster_than_eager=against,
    )


def _inverse(found: Interval, numerator: float) -> Interval:
    """numerator / x for an interval of x."""
    return Interval(
        low=numerator / found.high,
        estimate=numerator / found.estimate,
        high=numerator / found.low,
        level=found.level,
    )


def _kv_bytes(setting: Setting, pruning: Pruning, expected: int) -> int:
    """Bytes of keys and values after a prefill; RuntimeError unless they are those of the formula."""
    model = setting.model
    with pruned(model, pruning), torch.inference_mode():
        cache = model(**setting.inputs, use_cache=True, logits_to_keep=1).past_key_values
    held: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    if held != expected:
        raise RuntimeError(f"the cache holds {held} bytes, the formula says {expected}")
    return held


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    table = Table(title=title, title_justify="left")
    for column in (
        "schedule",
        "batch",
        "FLOPs",
        "prefill",
        "of promise",
        "decode",
        "memory",
        "KV",
        "ranking",
        "hooks",
    ):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for eager in EAGER:
        table.add_column(f"faster than {_OPPONENTS[eager]}", justify="right")
    for row in rows:
        table.add_row(*cells(row))
    console(200).print(table)


def cells(row: Row) -> list[str]:
    """Return what the table shows of a row."""
    return [
        row.schedule,
        str(row.batch),
        f"{row.flops_ratio:.3f}",
        _shown(row.prefill_ratio),
        _shown(row.of_promise),
        _shown(row.decode_ratio),
        "-" if row.memory_ratio is None else f"{row.memory_ratio:.3f}",
        f"{row.kv_ratio:.3f}",
        f"{100 * row.overhead.ranking:.1f} %",
        f"{100 * row.overhead.hooks:.1f} %",
        *(_shown(row.faster_than_eager[e]) if e in row.faster_than_eager else "-" for e in EAGER),
    ]


def _shown(found: Interval) -> str:
    return f"{found.estimate:.3f} ({found.low:.3f}..{found.high:.3f})"


def record(row: Row) -> dict[str, Any]:
    """Return a row as plain numbers for JSON."""
    return asdict(row)
