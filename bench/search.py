"""How fast is a search? The same studies by three engines, one after the other, on this machine's CPU.

    python -m bench.search                     # the embedded model, 128 samples: G-Search, then P-Sigmoid
    python -m bench.search --samples 16 --trials 4 --reference-samples 2
    python -m bench.search --model random --plain-samples 8 --engines plain replay    # G-Search, stride 3
    python -m bench.search --model random --layers 6 --width 64 --side 4 --vision-layers 2 --vision-width 64

`bench/engines.py` says what the engines do. Replay leads a search of its own. So does plain, unless it is
timed on some samples alone (`--plain-samples`); it then runs what replay tried, as the reference always does,
and seconds and FLOPs are scaled up to all samples. The records of all that plain runs must be replay's to the
bit, or the bench stops. Nothing but loading the model, and what only a process's first call pays for, is left
out of the clock: for every engine and every search it starts anew, before an image is opened. Prints a table
and then one JSON line. Run it on idle cores.
"""

import argparse
import importlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.comparison import compare
from bench.engines import ENGINES, EngineName, make_engine
from bench.floor import matmul_rate
from bench.models import CPU, Tower
from bench.report import show, totals
from bench.settings import Setting, embedded_setting, random_setting
from pruners.rankers import AttentionRanker
from studies.records import EvaluationSettings
from studies.searches.base import SearchOptions, full_until, with_rates
from studies.searches.g_search import GSearchOptions
from studies.searches.p_sigmoid import PSigmoidOptions

#: of options that are not given: a forward of the random model takes seconds
_DEFAULTS: dict[str, dict[str, Any]] = {
    "embedded": {
        "only": ["g-search", "p-sigmoid"],
        "samples": 128,
        "layer_trials": 25,
        "stride": 1,
        "new_tokens": 16,
    },
    "random": {"only": ["g-search"], "samples": 32, "layer_trials": 6, "stride": 3, "new_tokens": 8},
}


def main() -> None:
    """Run every search by every engine and print."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(given, Path(folder))
        rate = matmul_rate(setting.shape)
        _warm_up(setting, given.engines)
        rows, floors = [], {}
        for options in _searches(given):
            found, floors[options.method] = compare(setting, options, given.engines, _counts(given))
            rows += found
    show(_title(given, rate), rows, floors, rate)
    head = {"bench": "search", "device": f"cpu, {given.threads} threads", "torch": torch.__version__}
    shown = {
        "arguments": vars(given),
        "rows": [asdict(row) for row in rows],
        "totals": [asdict(row) for row in totals(rows)],
        "floor_flops": floors,
        "rate": rate,
    }
    print(json.dumps(head | shown))


def _setting(given: argparse.Namespace, folder: Path) -> Setting:
    settings = EvaluationSettings(
        threads=given.threads, batch_size=given.batch_size, max_new_tokens=given.new_tokens
    )
    if given.model == "embedded":
        return embedded_setting(folder, given.samples, settings)
    shape = CPU.smaller(given.layers, given.width, given.side)
    tower = Tower(layers=given.vision_layers, width=given.vision_width)
    return random_setting(folder, given.samples, settings, shape, tower)


def _searches(given: argparse.Namespace) -> list[SearchOptions]:
    wanted: list[SearchOptions] = [
        GSearchOptions(trials=given.layer_trials, sampler=given.sampler, stride=given.stride),
        PSigmoidOptions(trials=given.trials, sampler=given.sampler),
    ]
    return [options for options in wanted if options.method in given.only]


def _counts(given: argparse.Namespace) -> dict[EngineName, int]:
    """How many samples each engine runs, at least."""
    plain = given.samples if given.plain_samples is None else given.plain_samples
    return {"reference": given.reference_samples, "plain": plain, "replay": given.samples}


def _warm_up(setting: Setting, engines: Sequence[EngineName]) -> None:
    """Each engine on one sample, so that none pays for what only a process's first call does."""
    importlib.import_module("skopt")  # takes seconds at a sampler's first proposal
    first = replace(setting, samples=setting.samples[:1])
    for name in engines:
        engine = make_engine(name, first, 1)
        for pruning in (None, with_rates(AttentionRanker(), full_until(2, 0.5, setting.shape.num_layers))):
            engine.run(pruning)


def _title(given: argparse.Namespace, rate: float) -> str:
    plain = ""
    if "plain" in given.engines:
        leads = _counts(given)["plain"] >= given.samples
        plain = "; plain leads a search of its own" if leads else "; plain runs what replay tried"
    return (
        f"{given.model} model, {given.samples} samples in batches of {given.batch_size}, cpu, "
        f"{given.threads} threads, products at {rate / 1e9:.0f} GFLOP/s{plain}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=list(_DEFAULTS), default="embedded")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--only", nargs="+", choices=("g-search", "p-sigmoid"), help="these searches alone")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--batch-size", type=int, default=8, help="of plain and replay")
    parser.add_argument("--reference-samples", type=int, default=8, help="that the reference runs")
    parser.add_argument("--plain-samples", type=int, help="that plain runs, in whole batches; by default all")
    parser.add_argument("--layer-trials", type=int, help="of G-Search, per layer")
    parser.add_argument("--stride", type=int, help="of G-Search")
    parser.add_argument("--trials", type=int, default=30, help="of P-Sigmoid, per budget")
    parser.add_argument("--sampler", default="skopt-ei")
    parser.add_argument("--new-tokens", type=int, help="longest answer; the random model's are all so long")
    parser.add_argument("--threads", type=int, default=1)
    sizes = parser.add_argument_group("the random model")
    sizes.add_argument("--layers", type=int, default=CPU.layers, help="of the decoder")
    sizes.add_argument("--width", type=int, default=CPU.width, help="of the decoder; heads of 64")
    sizes.add_argument("--side", type=int, default=CPU.side, help="visual tokens: the square of it")
    sizes.add_argument("--vision-layers", type=int, default=12)
    sizes.add_argument("--vision-width", type=int, default=768, help="heads of 64")
    given = parser.parse_args()
    if "replay" not in given.engines:
        parser.error("--engines must name replay: the others are measured against it")
    for name, value in _DEFAULTS[given.model].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


if __name__ == "__main__":
    main()
