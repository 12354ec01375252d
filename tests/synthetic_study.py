"""A study without a model: accuracy is a smooth function of the whole tokens that each layer keeps.

Deep layers matter less than shallow ones, attention ranks better than chance, and TopV depends on its
weights, so every search has something to find. Samples are of two sizes, and each has a score of its own.
"""

import hashlib
import json
import math
from collections.abc import Callable

import optuna
from optuna.storages import InMemoryStorage

from pruners.costs import ModelShape, decoder_ratio, kv_ratio, vision_token_ratio
from pruners.pruning import Pruning
from studies.context import Context
from studies.keys import key_content, key_of_content
from studies.measured import Evaluation
from studies.records import EvaluationSettings
from studies.searches import make_search

LAYERS, FIRST, VISUAL = 8, 2, 24
SAMPLES = [(VISUAL, 7)] * 30 + [(16, 5)] * 10
SHAPE = ModelShape(
    num_layers=LAYERS,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    intermediate_size=64,
    gated=True,
    vocab_size=100,
    bytes_per_value=4,
    params=1,
)
#: how well each ranker finds the tokens that matter
SKILL = {
    "attention": 1.0,
    "topv": 0.9,
    "divprune": 0.8,
    "dart": 0.8,
    "knorm": 0.7,
    "uniform": 0.6,
    "random": 0.5,
}


def key_of(pruning: Pruning | None) -> str:
    sizes = [visual for visual, _ in SAMPLES]
    return key_of_content(
        key_content("model", "data", "search", "exact_match", EvaluationSettings(), pruning, sizes)
    )


def harm(pruning: Pruning | None, visual: int) -> float:
    """How much a sample with this many visual tokens suffers, at least 0; 0 where nothing is pruned."""
    if pruning is None:
        return 0.0
    ranker, total = pruning.ranker, 0.0
    skill = SKILL[ranker.type]
    if ranker.type == "topv":
        skill -= 0.3 * (ranker.alpha - 0.6) ** 2 + 0.02 * abs(math.log(ranker.sigma / 3))
    for layer, count in enumerate(pruning.schedule.counts(visual)):
        need = min(visual, visual * math.exp(-0.5 * layer) / skill)
        total += max(0.0, need - count) / visual
    return total


class SyntheticEvaluator:
    """Evaluates as `Context.evaluate` must: what has been evaluated is remembered. Counts its work."""

    def __init__(self, on_call: Callable[[], None] = lambda: None) -> None:
        self.memory: dict[str, Evaluation] = {}
        self.calls = 0
        self.asked = 0
        self.on_call = on_call

    def __call__(self, pruning: Pruning | None) -> Evaluation:
        self.asked += 1
        key = key_of(pruning)
        if key not in self.memory:
            self.calls += 1
            self.memory[key] = evaluate(pruning)
            self.on_call()
        return self.memory[key]


def evaluate(pruning: Pruning | None) -> Evaluation:
    harms = [harm(pruning, visual) for visual, _ in SAMPLES]
    # Sample i is answered while its own tolerance, spread over (0, 1), exceeds the harm; sample 3 never is.
    scores = [float(i != 3 and harms[i] < _tolerance(i)) for i in range(len(SAMPLES))]
    kl = [2 * suffered * (1 + i / len(SAMPLES)) for i, suffered in enumerate(harms)]
    rates = pruning.schedule if pruning else (1.0,) * LAYERS
    per_layer = [pruning.schedule.counts(visual) if pruning else (visual,) * LAYERS for visual, _ in SAMPLES]
    return Evaluation(
        accuracy=sum(scores) / len(scores),
        scores=scores,
        kl=kl,
        decoder_ratio=decoder_ratio(SHAPE, rates, SAMPLES),
        kv_ratio=kv_ratio(SHAPE, rates, SAMPLES),
        vision_token_ratio=vision_token_ratio(SHAPE, rates, SAMPLES),
        tokens_per_layer=[sum(column) / len(SAMPLES) for column in zip(*per_layer, strict=True)],
        seconds=1.0,
    )


def _tolerance(sample: int) -> float:
    digest = hashlib.sha256(json.dumps(sample).encode()).digest()
    return 0.02 + int.from_bytes(digest[:4]) / 2**32


def make_context(storage=None, name="study", evaluate=None, **changes) -> Context:
    settings = {
        "storage": InMemoryStorage() if storage is None else storage,
        "name": name,
        "seed": 0,
        "num_layers": LAYERS,
        "first_prunable": FIRST,
        "visual_tokens": VISUAL,
        "samples": SAMPLES,
        "shape": SHAPE,
        "evaluate": SyntheticEvaluator() if evaluate is None else evaluate,
        "key_of": key_of,
        "grid": 6,
    }
    return Context(**settings | changes)


def search(options, **changes) -> Context:
    """Run a search alone, without the driver's comparison."""
    context = make_context(**changes)
    assert context.baseline.pruning is None
    made = make_search(options)
    made.check(context.size, context.ratio_of)
    made.run(context)
    return context


def sub_study(context: Context, suffix: str) -> optuna.Study:
    return optuna.load_study(study_name=f"study/{suffix}", storage=context.storage)
