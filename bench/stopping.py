"""What does early stopping save, and does it cost anything? The same `pareto` studies with it and without.

    python -m bench.stopping                   # the embedded model, 512 samples, 100 trials, seeds 0 to 5
    python -m bench.stopping --samples 32 --trials 10 --seeds 0

Both studies of a seed are whole searches through the product's own context. Samples are counted as each study
asks for them; what another study has asked for already is looked up, because a batch's records do not
depend on who asks. Prints a table and then one JSON line.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from optuna.trial import TrialState
from rich.table import Table

from bench.comparison import Evaluated, context_of
from bench.engines import BatchedEngine
from bench.output import console
from bench.settings import Setting, embedded_setting
from pruners import Pruning
from studies.context import Context
from studies.evaluator import ReplayEvaluator
from studies.front import hypervolume
from studies.measured import Evaluation
from studies.records import EvaluationSettings, SampleRecord
from studies.searches import make_search
from studies.searches.pareto import ParetoOptions
from studies.stopping import Judge, Stopped, checkpoints


class Remembering(BatchedEngine):
    """Computes each batch of each evaluation once, whichever study asks."""

    def __init__(self, setting: Setting) -> None:
        given = setting.model, setting.processor, setting.samples, setting.metric, setting.settings
        super().__init__(ReplayEvaluator(*given, cache_memory=2**31), len(setting.samples))
        self._known: dict[tuple[Pruning | None, int], list[SampleRecord]] = {}

    def batch(self, number: int, pruning: Pruning | None) -> list[SampleRecord]:
        """Records of a batch."""
        if (pruning, number) not in self._known:
            self._known[pruning, number] = super().batch(number, pruning)
        return self._known[pruning, number]


class Patient(Evaluated):
    """One study's evaluations, as the workers make them: at each checkpoint the judge may end one."""

    def __init__(self, setting: Setting, engine: Remembering) -> None:
        self._batches = engine
        super().__init__(setting, lambda: engine)
        #: samples that were asked for by trials that were given up
        self._given_up = 0

    @property
    def asked(self) -> int:
        """Samples that the study asked for."""
        return self._given_up + len(self.done) * len(self.samples)

    def begin(self, pruning: Pruning | None, judge: Judge | None) -> Future[Evaluation | Stopped]:
        """`Context.begin`, without workers."""
        future: Future[Evaluation | Stopped] = Future()
        future.set_result(self(pruning) if judge is None else self._until(pruning, judge))
        return future

    def _until(self, pruning: Pruning | None, judge: Judge) -> Evaluation | Stopped:
        start, seen = time.perf_counter(), dict[int, float]()
        for group in checkpoints(len(self._batches.batches))[:-1]:
            for number in group:
                records = self._batches.batch(number, pruning)
                indices = self._batches.batches[number]
                seen.update((n, record.score) for n, record in zip(indices, records, strict=True))
            if judge(seen):
                self._given_up += len(seen)
                return judge.stopped(seen, time.perf_counter() - start)
        return self(pruning)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One seed, without early stopping and with it."""

    seed: int
    samples: int
    samples_early: int
    stopped: int
    hypervolume: float
    hypervolume_early: float
    recommended: str
    recommended_early: str

    @property
    def saved(self) -> float:
        """Share of the sample evaluations."""
        return 1 - self.samples_early / self.samples

    @property
    def volume_change(self) -> float:
        """Of the hypervolume, relative; negative where early stopping lost some."""
        return self.hypervolume_early / self.hypervolume - 1


def main() -> None:
    """Run every seed both ways and print."""
    given = _arguments()
    with embedded(given.samples, given.threads) as setting:
        engine = Remembering(setting)
        rows = [compare(setting, engine, seed, given.trials) for seed in given.seeds]
    _show(rows, given)
    head = {"bench": "stopping", "samples": given.samples, "trials": given.trials}
    print(json.dumps(head | {"rows": [asdict(row) | {"saved": row.saved} for row in rows]}))


@contextmanager
def embedded(samples: int, threads: int) -> Iterator[Setting]:
    """The embedded model on so many of its scenes, with answers of one token."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = EvaluationSettings(threads=threads, max_new_tokens=1)
        yield embedded_setting(Path(folder), samples, settings)


def compare(setting: Setting, engine: Remembering, seed: int, trials: int) -> Row:
    """One seed both ways."""
    (whole, everything), (early, less) = (
        search(setting, engine, ParetoOptions(trials=trials, seed=seed, early_stopping=early))
        for early in (False, True)
    )
    method = ParetoOptions().method
    return Row(
        seed=seed,
        samples=everything.asked,
        samples_early=less.asked,
        stopped=sum(trial.state == TrialState.PRUNED for trial in early.main.trials_of(method)),
        hypervolume=hypervolume([measured.point for measured in whole.main]),
        hypervolume_early=hypervolume([measured.point for measured in early.main]),
        recommended=whole.recommended[method].key,
        recommended_early=early.recommended[method].key,
    )


def search(setting: Setting, engine: Remembering, options: ParetoOptions) -> tuple[Context, Patient]:
    """One whole search; what it knows afterwards, and what it asked for."""
    patient = Patient(setting, engine)
    context = context_of(setting, options, patient)
    context.begin = patient.begin
    assert context.baseline.pruning is None
    make_search(options).run(context)
    return context, patient


def _show(rows: Sequence[Row], given: argparse.Namespace) -> None:
    title = f"pareto, {given.trials} trials, {given.samples} samples: sample evaluations and hypervolume"
    table = Table(title=title, title_justify="left")
    for column in ("seed", "without", "with", "saved", "stopped", "without", "with", "change"):
        table.add_column(column, justify="right")
    table.add_column("recommended")
    for row in rows:
        table.add_row(
            str(row.seed),
            f"{row.samples:,}",
            f"{row.samples_early:,}",
            f"{row.saved:.1%}",
            str(row.stopped),
            f"{row.hypervolume:.4f}",
            f"{row.hypervolume_early:.4f}",
            f"{row.volume_change:+.2%}",
            "the same" if row.recommended == row.recommended_early else "another",
        )
    console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
