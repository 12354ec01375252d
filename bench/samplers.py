"""How many trials does a sampler need? On recorded layers of G-Search, where every number's f is known.

    python -m bench.samplers                                   # every sampler, 20 seeds
    python -m bench.samplers --seeds 3 --samplers tpe random
    python -m bench.samplers --record                          # evaluates the problems anew

Counts the trials until one is told whose f is within 0.002 of the best, by the proposals that a study makes:
both ends first, uniform draws up to 10 trials, then the sampler; nothing twice. Needs no model but to record.
Prints a table and then one JSON line.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.trial import BaseTrial, FrozenTrial
from rich.table import Table

from bench.output import console
from bench.problems import FILE, Problem, read, record
from pruners import Pruning
from pruners.rankers import parse_ranker
from studies.asking import Ask, Proposer, mix
from studies.searches.base import with_rates
from studies.searches.g_search import GSearchOptions
from studies.trial_log import values_of

SAMPLERS = ("skopt-ei", "gp", "tpe", "random", "brute-force")
#: f may lie so far below the best
TOLERANCE = 0.002
#: What G-Search takes by default: trials per layer, and how many of them are no sampler's.
TRIALS, INITIAL = GSearchOptions().trials, GSearchOptions().initial


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search until it found what is good enough, or had nothing left to propose."""

    #: every n that was tried, in order
    tried: tuple[int, ...]
    found: bool
    #: CPU time of each ask that the sampler answered itself
    seconds: tuple[float, ...]

    @property
    def trials(self) -> float:
        """How many it needed; infinite where it gave up before."""
        return len(self.tried) if self.found else math.inf


def search(problem: Problem, sampler: str, seed: int, tolerance: float = TOLERANCE) -> Run:
    """Ask and tell as `Context.optimise` does it for a layer of G-Search, without its limit on trials."""
    good, proposer = set(problem.good(tolerance)), Proposer(_ask(problem, sampler, seed))
    told: list[FrozenTrial] = []
    tried: list[int] = []
    seconds: list[float] = []
    while not tried or tried[-1] not in good:
        known = {trial.user_attrs["key"]: values_of(trial) for trial in told}
        start = time.process_time()
        proposal = proposer.propose(told, known)
        if len(told) >= INITIAL:
            seconds.append(time.process_time() - start)
        if proposal is None:
            return Run(tried=tuple(tried), found=False, seconds=tuple(seconds))
        tried.append(proposal.params["n"])
        told.append(
            optuna.create_trial(
                value=problem.values[tried[-1]],
                params=proposal.params,
                distributions=proposal.distributions,
                user_attrs=proposal.user_attrs,
                system_attrs=proposal.system_attrs,
            )
        )
    return Run(tried=tuple(tried), found=True, seconds=tuple(seconds))


def _ask(problem: Problem, sampler: str, seed: int) -> Ask:
    total, ranker = problem.visual_tokens, parse_ranker(problem.ranker)

    def suggest(trial: BaseTrial) -> Pruning:
        counts = (*problem.kept, trial.suggest_int("n", 0, problem.most))
        return with_rates(ranker, [count / total for count in counts])

    def key_of(pruning: Pruning | None) -> str:
        return str(total if pruning is None else pruning.schedule.counts(total)[-1])

    return Ask(
        directions=["maximize"],
        suggest=suggest,
        key_of=key_of,
        sampler=sampler,
        initial=INITIAL,
        seed=mix(seed, f"layer-{problem.layer:02d}"),
        enqueue=({"n": problem.most}, {"n": 0}),
    )


def main() -> None:
    """Record, or run every sampler on every problem."""
    given = _arguments()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if given.record:
        record(given.file, given.samples)
        return
    problems = read(given.file)
    for sampler in given.samplers:
        search(problems[0], sampler, seed=len(range(given.seeds)))  # loads what it imports
    runs: dict[tuple[str, str], list[Run]] = {}
    for problem in problems:
        for sampler in given.samplers:
            runs[problem.name, sampler] = [search(problem, sampler, seed) for seed in range(given.seeds)]
            print(f"{problem.name}: {sampler} done", file=sys.stderr)
    _show(problems, given.samplers, runs, given.seeds)
    print(json.dumps(_result(problems, given.samplers, runs)))


def _show(
    problems: Sequence[Problem], samplers: Sequence[str], runs: dict[tuple[str, str], list[Run]], seeds: int
) -> None:
    title = f"trials to within {TOLERANCE} of the best f: median (quartiles) of {seeds} seeds"
    table = Table(title=title, title_justify="left")
    table.add_column("problem")
    for column in ("n up to", "best n", "good", *samplers):
        table.add_column(column, justify="right")
    for problem in problems:
        good = problem.good(TOLERANCE)
        best = problem.values.index(max(problem.values))
        cells = [spread([run.trials for run in runs[problem.name, sampler]]) for sampler in samplers]
        table.add_row(problem.name, str(problem.most), str(best), str(len(good)), *cells)
    table.add_section()
    by = {sampler: [runs[problem.name, sampler] for problem in problems] for sampler in samplers}
    totals = [[sum(run.trials for run in same) for same in zip(*by[s], strict=True)] for s in samplers]
    table.add_row("all, added up per seed", "", "", "", *map(spread, totals))
    shares = [[run.trials <= TRIALS for row in by[sampler] for run in row] for sampler in samplers]
    table.add_row(f"found in {TRIALS} trials", "", "", "", *(f"{statistics.mean(s):.0%}" for s in shares))
    asks = [f"{1000 * _per_ask(by[sampler]):.1f}" for sampler in samplers]
    table.add_row("CPU ms per ask", "", "", "", *asks)
    console(130).print(table)


def spread(trials: Sequence[float]) -> str:
    """Median and quartiles; quartiles are counts that occurred, since infinite ones have no mean."""
    low, high = np.percentile(trials, [25, 75], method="inverted_cdf")
    return f"{_count(statistics.median(trials))} ({_count(low)}..{_count(high)})"


def _count(trials: float) -> str:
    return f"{trials:g}" if math.isfinite(trials) else "never"


def _per_ask(rows: Sequence[Sequence[Run]]) -> float:
    """Mean seconds of the sampler's own asks."""
    seconds = [second for row in rows for run in row for second in run.seconds]
    return statistics.mean(seconds) if seconds else math.nan


def _result(
    problems: Sequence[Problem], samplers: Sequence[str], runs: dict[tuple[str, str], list[Run]]
) -> dict[str, object]:
    rows = [
        {
            "problem": problem.name,
            "sampler": sampler,
            # null: gave up
            "trials": [len(run.tried) if run.found else None for run in runs[problem.name, sampler]],
            "seconds_per_ask": _per_ask([runs[problem.name, sampler]]),
        }
        for problem in problems
        for sampler in samplers
    ]
    versions = {name: version(name) for name in ("optuna", "scikit-optimize", "torch")}
    return {"bench": "samplers", "tolerance": TOLERANCE, **versions, "rows": rows}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="as many, from 0 (default 20)")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--file", type=Path, default=FILE, help="the problems (default bench/problems.json)")
    parser.add_argument("--record", action="store_true", help="write the problems instead")
    parser.add_argument("--samples", type=int, default=128, help="with --record: how many (default 128)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
