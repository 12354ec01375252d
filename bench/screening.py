"""Is a cheap first stage worth it? `fidelity` on few samples first, then accuracy on all of its front.

    python -m bench.screening                  # the embedded model, 512 samples, seeds 0 to 2
    python -m bench.screening --samples 64 --screened 16 --many 8 --few 4 --seeds 0

Three `pareto` searches of a seed: one with many trials; one with few; and one with few that first tries what
a search with many trials by `fidelity`, which needs no labels, found on a few samples (`--warm-start`). What
each asked for is counted in sample evaluations, those of the first stage included. Prints a table and then
one JSON line.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from bench.output import console
from bench.settings import Setting
from bench.stopping import Remembering, embedded, search
from searchsvc.warm_start import front_params
from studies.front import hypervolume
from studies.searches.pareto import ParetoOptions

METHOD: str = ParetoOptions().method


@dataclass(frozen=True, kw_only=True)
class Row:
    """One search."""

    seed: int
    search: str
    #: evaluated samples
    samples: int
    hypervolume: float
    #: FLOPs ratio of the cheapest that loses at most 0.01
    flops_ratio: float


def main() -> None:
    """Run all searches of every seed and print."""
    given = _arguments()
    with embedded(given.samples, given.threads) as setting:
        whole, part = Remembering(setting), screened(setting, given.screened)
        rows = [
            row
            for seed in given.seeds
            for row in compare(setting, whole, *part, seed=seed, many=given.many, few=given.few)
        ]
    _show(rows, given)
    head = {"bench": "screening", "samples": given.samples, "screened": given.screened}
    print(json.dumps(head | {"rows": [asdict(row) for row in rows]}))


def screened(setting: Setting, count: int) -> tuple[Setting, Remembering]:
    """The same model by `fidelity` on some of its samples."""
    samples = [replace(sample, metric="fidelity") for sample in setting.samples[:count]]
    part = replace(setting, samples=samples, metric="fidelity")
    return part, Remembering(part)


def compare(
    setting: Setting,
    engine: Remembering,
    part: Setting,
    cheap: Remembering,
    *,
    seed: int,
    many: int,
    few: int,
) -> list[Row]:
    """The three searches of one seed."""
    first, asked = search(part, cheap, ParetoOptions(trials=many, seed=seed))
    found = {METHOD: front_params(list(first.main), METHOD)}
    return [
        _row(setting, engine, f"{many} trials", ParetoOptions(trials=many, seed=seed)),
        _row(setting, engine, f"{few} trials", ParetoOptions(trials=few, seed=seed)),
        _row(
            setting,
            engine,
            f"{many} by fidelity, then {few}",
            ParetoOptions(trials=few, seed=seed, try_first=found),
            before=asked.asked,
        ),
    ]


def _row(setting: Setting, engine: Remembering, name: str, options: ParetoOptions, *, before: int = 0) -> Row:
    context, patient = search(setting, engine, options)
    return Row(
        seed=options.seed,
        search=name,
        samples=before + patient.asked,
        hypervolume=hypervolume([measured.point for measured in context.main]),
        flops_ratio=context.recommended[METHOD].flops_ratio,
    )


def _show(rows: Sequence[Row], given: argparse.Namespace) -> None:
    title = (
        f"pareto on {given.samples} samples, with and without a first stage by fidelity on {given.screened}; "
        f"means of {len(given.seeds)} seeds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("search")
    for column in ("sample evaluations", "hypervolume", "FLOPs ratio within 0.01"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(row.search for row in rows):
        same = [row for row in rows if row.search == name]
        means: Mapping[str, Any] = {
            field: statistics.fmean(getattr(row, field) for row in same)
            for field in ("samples", "hypervolume", "flops_ratio")
        }
        table.add_row(
            name, f"{means['samples']:,.0f}", f"{means['hypervolume']:.4f}", f"{means['flops_ratio']:.3f}"
        )
    console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--screened", type=int, default=64, help="samples of the first stage")
    parser.add_argument("--many", type=int, default=60, help="trials")
    parser.add_argument("--few", type=int, default=20, help="trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
