"""Five search problems whose optimum is known: layers of G-Search on the embedded model, every number tried.

    python -m bench.samplers --record      # records them anew into bench/problems.json

Each is one layer of a G-Search by brute force, so the layers before it stand as that search left them; chosen
are layers whose answer is neither everything nor nothing, of four searches. The penalty is 0.05: at the
default, 0.01, keeping everything or nothing is the answer in most layers of this model, and 0.002 of f is 29
of 144 tokens; at 0.05 it is 6.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import optuna
import torch

from bench.comparison import Evaluated, context_of
from bench.engines import make_engine
from bench.settings import Setting, embedded_setting
from pruners.rankers import parse_ranker
from searchsvc.locations import DEMO_MODEL
from studies.folders import fingerprint
from studies.records import EvaluationSettings
from studies.searches import make_search
from studies.searches.g_search import GSearchOptions

FILE = Path(__file__).with_name("problems.json")
PENALTY = 0.05
#: (ranker, stride) of a G-Search, and which of its layers are kept
SEARCHES: dict[tuple[str, int], tuple[int, ...]] = {
    ("attention:queries=instruction", 1): (7,),
    ("attention:queries=instruction", 3): (8,),
    ("uniform", 1): (2, 10),
    ("divprune", 1): (6,),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One layer: how many of the samples are answered correctly with n tokens in it and all deeper ones."""

    ranker: str
    stride: int
    layer: int
    #: visual tokens in the layers before
    kept: tuple[int, ...]
    #: of every n from 0 to as many as the layer before keeps
    correct: tuple[int, ...]
    samples: int
    visual_tokens: int
    penalty: float

    @property
    def name(self) -> str:
        """For people."""
        every = "" if self.stride == 1 else f", every {self.stride}rd"
        return f"{self.ranker}, layer {self.layer}{every}"

    @property
    def most(self) -> int:
        """The largest n."""
        return len(self.correct) - 1

    @cached_property
    def values(self) -> tuple[float, ...]:
        """f of every n: accuracy less the price of the tokens."""
        return tuple(
            correct / self.samples - self.penalty * n / self.visual_tokens
            for n, correct in enumerate(self.correct)
        )

    def good(self, tolerance: float) -> list[int]:
        """The numbers whose f is within the tolerance of the best."""
        best = max(self.values)
        # 1e-12: equal but for rounding is within
        return [n for n, value in enumerate(self.values) if value >= best - tolerance - 1e-12]


def read(file: Path = FILE) -> list[Problem]:
    """The recorded problems."""
    content = json.loads(file.read_text())
    common = {name: content[name] for name in ("samples", "visual_tokens", "penalty")}
    return [
        Problem(**{**row, "kept": tuple(row["kept"]), "correct": tuple(row["correct"])}, **common)
        for row in content["problems"]
    ]


def record(file: Path, samples: int) -> None:
    """Make them anew, by the product's own brute force."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setting = embedded_setting(Path(folder), samples, EvaluationSettings())
        evaluated = Evaluated(setting, partial(make_engine, "replay", setting, samples))
        found = [
            problem
            for (ranker, stride), layers in SEARCHES.items()
            for problem in _layers(setting, evaluated, ranker, stride, layers)
        ]
    common = {
        "model": "demo",
        "fingerprint": fingerprint(DEMO_MODEL),
        "samples": samples,
        "metric": setting.metric,
        "penalty": PENALTY,
        "visual_tokens": max(evaluated.visual),
    }
    rows = [
        {name: value for name, value in asdict(problem).items() if name not in common} for problem in found
    ]
    file.write_text(json.dumps(common | {"problems": rows}) + "\n")


def _layers(
    setting: Setting, evaluated: Evaluated, ranker: str, stride: int, layers: Sequence[int]
) -> Iterator[Problem]:
    options = GSearchOptions(
        sampler="brute-force", penalty=PENALTY, stride=stride, ranker=parse_ranker(ranker)
    )
    context = context_of(setting, options, evaluated)
    make_search(options).run(context)
    for layer in layers:
        study = optuna.load_study(study_name=f"{options.method}/layer-{layer:02d}", storage=context.storage)
        table: dict[int, Any] = {}
        for trial in study.get_trials(deepcopy=False):
            table[trial.params["n"]] = context.main.find(trial.user_attrs["key"])
        yield Problem(
            ranker=ranker,
            stride=stride,
            layer=layer,
            kept=tuple(round(count) for count in table[0].tokens_per_layer[:layer]),
            correct=tuple(round(table[n].accuracy * len(setting.samples)) for n in range(len(table))),
            samples=len(setting.samples),
            visual_tokens=max(evaluated.visual),
            penalty=PENALTY,
        )
