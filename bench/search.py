"""How fast is a search? The same studies by three engines, one after the other, on this machine's CPU.

    python -m bench.search                     # the embedded model, 128 samples
    python -m bench.search --samples 16 --trials 4 --reference-samples 2

G-Search over every layer, then P-Sigmoid. *reference* does what the papers' code does, and is timed on the
first samples alone, over the prunings that *plain* tried; *plain* runs the whole model per trial, batched;
*replay* starts at the first layer that changes. Prints a table and then one JSON line. Run it on idle cores.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.storages import InMemoryStorage
from rich.console import Console
from rich.table import Table

from bench.engines import Executed, ReferenceEvaluator, layer_flops, run_batches
from pruners import Pruning
from pruners.costs import ModelShape
from pruners.families import traits
from pruners.plan import Plan
from searchsvc.demo.data import write
from searchsvc.locations import model_location
from studies.context import Context
from studies.data import read_manifest, split
from studies.evaluator import EvaluationSettings, PlainEvaluator, ReplayEvaluator
from studies.keys import key_content, key_of_content
from studies.measured import Evaluation, evaluation_of
from studies.metrics import make_metric
from studies.models import load
from studies.records import SampleRecord
from studies.searches import make_search
from studies.searches.base import SearchOptions
from studies.searches.g_search import GSearchOptions
from studies.searches.p_sigmoid import PSigmoidOptions
from studies.spec import ModelSpec

Run = Callable[[Pruning | None], list[SampleRecord]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all engines work on."""

    model: Any
    processor: Any
    samples: Sequence[Any]
    metric: str
    settings: EvaluationSettings

    @property
    def shape(self) -> ModelShape:
        """Sizes for costs."""
        return ModelShape.from_config(self.model.config)


class Evaluated:
    """`Context.evaluate` by one engine: remembers, and adds up its seconds."""

    def __init__(self, setting: Setting, run: Run) -> None:
        self._setting, self._run = setting, run
        self.seconds = 0.0
        #: in the order in which they were computed, no pruning first
        self.done: dict[str, tuple[Pruning | None, Evaluation]] = {}
        records = self(None).records
        self.visual = [record.visual_tokens for record in records]
        self.samples = [(record.visual_tokens, record.text_tokens) for record in records]

    def key_of(self, pruning: Pruning | None) -> str:
        """Equal whole numbers, equal key."""
        given = self._setting
        visual = [] if pruning is None else self.visual
        return key_of_content(
            key_content("model", "data", "search", given.metric, given.settings, pruning, visual)
        )

    def __call__(self, pruning: Pruning | None) -> Evaluation:
        key = self.key_of(pruning)
        if key not in self.done:
            start = time.perf_counter()
            records = self._run(pruning)
            seconds = time.perf_counter() - start
            self.seconds += seconds
            made = evaluation_of(
                pruning,
                records,
                self._setting.shape,
                make_metric(self._setting.metric),
                cached=False,
                seconds=seconds,
            )
            self.done[key] = pruning, made
        return self.done[key][1]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine on one search."""

    search: str
    engine: str
    evaluations: int
    #: in evaluations, and with the sampler's own time
    seconds: float
    whole_seconds: float
    #: FLOPs of decoder layers that ran; None where they were not counted
    flops: int | None


def main() -> None:
    """Run every search by every engine and print."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(given, Path(folder))
        rate = matmul_rate(setting)
        rows, floors = [], {}
        for options in _searches(given):
            found, floors[options.method] = _compare(setting, options, given.reference_samples)
            rows += found
    _show(rows, floors, rate, given)
    head = {"bench": "search", "device": f"cpu, {given.threads} threads", "torch": torch.__version__}
    print(json.dumps(head | {"rows": [asdict(row) for row in rows], "floor_flops": floors, "rate": rate}))


def _setting(given: argparse.Namespace, folder: Path) -> Setting:
    manifest = write(folder, search=given.samples, test=1)
    chosen, _ = split(read_manifest(manifest), given.samples, 1, seed=0)
    model, processor, _ = load(ModelSpec(id=model_location("demo")))
    settings = EvaluationSettings(threads=given.threads)
    return Setting(
        model=model, processor=processor, samples=chosen.samples, metric=chosen.metric, settings=settings
    )


def _searches(given: argparse.Namespace) -> list[SearchOptions]:
    wanted: list[SearchOptions] = [
        GSearchOptions(trials=given.layer_trials, sampler=given.sampler),
        PSigmoidOptions(trials=given.trials, sampler=given.sampler),
    ]
    return [options for options in wanted if options.method in given.only]


def _compare(setting: Setting, options: SearchOptions, first: int) -> tuple[list[Row], int]:
    made = setting.model, setting.processor, setting.samples, setting.metric
    plain = PlainEvaluator(*made, setting.settings)
    replay = ReplayEvaluator(*made, setting.settings, cache_memory=2**33)
    rows, ran = [], {}
    for name, evaluator in (("plain", plain), ("replay", replay)):
        run_batches(evaluator, None)
        executed = Executed(setting.model)
        start = time.perf_counter()
        with executed.counting():
            evaluated = ran[name] = Evaluated(setting, lambda cut, by=evaluator: run_batches(by, cut))
            context = _context(setting, options, evaluated)
            make_search(options).run(context)
        whole = time.perf_counter() - start
        rows.append(
            Row(
                search=options.method,
                engine=name,
                evaluations=len(evaluated.done),
                seconds=evaluated.seconds,
                whole_seconds=whole,
                flops=executed.flops,
            )
        )
    _same(ran["plain"], ran["replay"])
    return [_reference(setting, options, ran["plain"], first), *rows], floor(setting, plain, ran["plain"])


def _context(setting: Setting, options: SearchOptions, evaluated: Evaluated) -> Context:
    facts = traits(setting.model.config)
    return Context(
        storage=InMemoryStorage(),
        name=options.method,
        seed=options.seed,
        num_layers=setting.shape.num_layers,
        first_prunable=facts.first_prunable,
        visual_tokens=max(evaluated.visual),
        samples=evaluated.samples,
        shape=setting.shape,
        evaluate=evaluated,
        key_of=evaluated.key_of,
        grid=max(facts.grid or (1, 1)),
    )


def _same(plain: Evaluated, replay: Evaluated) -> None:
    """RuntimeError unless both engines tried the same schedules and gave every sample the same record."""
    if list(plain.done) != list(replay.done):
        raise RuntimeError("plain and replay did not try the same schedules")
    for key, (_, evaluation) in plain.done.items():
        if replay.done[key][1].records != evaluation.records:
            raise RuntimeError(f"plain and replay disagree about evaluation {key}")


def _reference(setting: Setting, options: SearchOptions, plain: Evaluated, first: int) -> Row:
    """The papers' way over all prunings that were tried, on the first samples; its seconds are scaled up."""
    few = setting.samples[:first]
    evaluator = ReferenceEvaluator(
        setting.model, setting.processor, few, setting.metric, setting.settings.max_new_tokens
    )
    evaluator.run(None)
    start = time.perf_counter()
    for pruning, _ in plain.done.values():
        if pruning is not None:  # the others were asked before their clock began
            evaluator.run(pruning)
    seconds = (time.perf_counter() - start) * len(setting.samples) / len(few)
    return Row(
        search=options.method,
        engine="reference",
        evaluations=len(plain.done),
        seconds=seconds,
        whole_seconds=seconds,
        flops=None,
    )


def floor(setting: Setting, evaluator: PlainEvaluator, tried: Evaluated) -> int:
    """FLOPs of what no engine can leave out: every decoder layer once for each thing that it is asked.

    Two trials ask a layer the same where they are alike up to it. Padding and generated tokens are left out.
    """
    shape, asked = setting.shape, {}
    for number, batch in enumerate(evaluator.batches):
        visual, text = zip(*(tried.samples[index] for index in batch), strict=True)
        for pruning, _ in tried.done.values():
            if pruning is None:
                continue
            plan = Plan(pruning, visual, text)
            for layer in range(shape.num_layers):
                asked[number, layer, plan.prefix(layer + 1)] = plan.lengths(layer)
    return sum(layer_flops(shape, tokens, tokens) for lengths in asked.values() for tokens in lengths)


def matmul_rate(setting: Setting) -> float:
    """FLOPs per second of this model's largest matrix product on a full batch: the best of many."""
    shape, tokens = setting.shape, 2048
    left = torch.randn(tokens, shape.hidden_size)
    right = torch.randn(shape.hidden_size, shape.intermediate_size)
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * tokens * shape.hidden_size * shape.intermediate_size / best


def _show(rows: Sequence[Row], floors: dict[str, int], rate: float, given: argparse.Namespace) -> None:
    title = (
        f"{given.samples} samples, cpu, {given.threads} threads, products at {rate / 1e9:.0f} GFLOP/s, "
        f"reference timed on {given.reference_samples}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("search", "engine", "evaluations", "seconds", "with sampler", "GFLOP", "times reference"):
        table.add_column(column, justify="left" if column in ("search", "engine") else "right")
    base: dict[str, Row] = {row.search: row for row in rows if row.engine == "reference"}
    for row in rows:
        faster = base[row.search].seconds / row.seconds
        table.add_row(
            row.search,
            row.engine,
            str(row.evaluations),
            f"{row.seconds:.1f}",
            f"{row.whole_seconds:.1f}",
            "-" if row.flops is None else f"{row.flops / 1e9:.0f}",
            f"{faster:.1f}",
        )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    by = {(row.search, row.engine): row for row in rows}
    for search, least in floors.items():
        plain, replay = by[search, "plain"], by[search, "replay"]
        assert plain.flops is not None
        assert replay.flops is not None
        faster, promised = plain.seconds / replay.seconds, plain.flops / replay.flops
        console.print(
            f"{search}: replay is {faster:.2f} times faster than plain, the FLOPs promise {promised:.2f}: "
            f"{faster / promised:.2f} of it. Floor {least / 1e9:.0f} GFLOP, {least / rate:.1f} s: "
            f"replay takes {replay.seconds * rate / least:.1f} times that. Same schedules, same records."
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--reference-samples", type=int, default=8)
    parser.add_argument("--layer-trials", type=int, default=25, help="of G-Search, per layer")
    parser.add_argument("--trials", type=int, default=30, help="of P-Sigmoid, per budget")
    parser.add_argument("--sampler", default="skopt-ei")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["g-search", "p-sigmoid"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
