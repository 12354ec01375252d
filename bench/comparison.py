"""One search by several engines: one leads it, or follows what another tried, on some samples alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from optuna.storages import InMemoryStorage

from bench.engines import ENGINES, Engine, EngineName, make_engine
from bench.executed import Executed
from bench.floor import floor
from bench.report import Row
from bench.settings import Setting
from pruners import Pruning
from pruners.families import traits
from studies.context import Context
from studies.keys import key_content, key_of_content
from studies.measured import Evaluation, evaluation_of
from studies.metrics import make_metric
from studies.records import SampleRecord
from studies.searches import make_search
from studies.searches.base import SearchOptions

#: scores that differ by less are the same: the reference runs other kernels on other batches
_NEAR = 1e-4


class Evaluated:
    """`Context.evaluate` by one engine: remembers, and adds up its seconds."""

    def __init__(self, setting: Setting, make: Callable[[], Engine]) -> None:
        self._setting = setting
        start = time.perf_counter()
        self._engine = make()
        self.seconds = time.perf_counter() - start
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
            records = self._engine.run(pruning)
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


def compare(
    setting: Setting,
    options: SearchOptions,
    engines: Sequence[EngineName],
    counts: Mapping[EngineName, int],
) -> tuple[list[Row], int]:
    """Rows of one search, in the order of `ENGINES`, and its floor; each engine runs `counts` samples.

    Batched engines that run all samples lead a search of their own, replay always. RuntimeError where plain
    and replay do not try the same schedules, or give a sample another record.
    """
    rows: dict[EngineName, Row] = {}
    rows["replay"], replay = _lead(setting, options, "replay")
    for name in engines:
        if name == "plain" and counts[name] >= len(setting.samples):
            rows[name], plain = _lead(setting, options, name)
            _same(plain, replay)
        elif name != "replay":
            rows[name] = _follow(setting, name, counts[name], rows["replay"], replay)
    tried = [pruning for pruning, _ in replay.done.values()]
    images = sum(len(sample.images) for sample in setting.samples)
    least = floor(setting.shape, tried, replay.samples, images)
    return [rows[name] for name in ENGINES if name in rows], least


def _lead(setting: Setting, options: SearchOptions, name: EngineName) -> tuple[Row, Evaluated]:
    """A search of the engine's own; the clock runs from before it opens an image."""
    executed = Executed(setting.model)
    start = time.perf_counter()
    with executed.counting():
        evaluated = Evaluated(setting, partial(make_engine, name, setting, len(setting.samples)))
        make_search(options).run(context_of(setting, options, evaluated))
    row = Row(
        search=options.method,
        engine=name,
        timed_on=len(setting.samples),
        evaluations=len(evaluated.done),
        seconds=evaluated.seconds,
        whole_seconds=time.perf_counter() - start,
        flops=executed.flops,
        same_scores=1.0,
    )
    return row, evaluated


def context_of(setting: Setting, options: SearchOptions, evaluated: Evaluated) -> Context:
    """What the service would give this search, without a database and without workers."""
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
        try_first=getattr(options, "try_first", {}),
    )


def _same(plain: Evaluated, replay: Evaluated) -> None:
    if list(plain.done) != list(replay.done):
        raise RuntimeError("plain and replay did not try the same schedules")
    for key, (_, evaluation) in plain.done.items():
        _same_records(key, evaluation.records, replay.done[key][1].records)


def _same_records(key: str, plain: Sequence[SampleRecord], replay: Sequence[SampleRecord]) -> None:
    if list(plain) != list(replay):
        raise RuntimeError(f"plain and replay disagree about evaluation {key}")


def _follow(setting: Setting, name: EngineName, count: int, lead: Row, tried: Evaluated) -> Row:
    """An engine on some samples, over all that was tried; what depends on their number is scaled up."""
    executed, same = Executed(setting.model), 0
    start = time.perf_counter()
    engine = make_engine(name, setting, count)
    made = time.perf_counter() - start
    ran = 0.0
    with executed.counting():
        for key, (pruning, evaluation) in tried.done.items():
            start = time.perf_counter()
            found = engine.run(pruning)
            ran += time.perf_counter() - start
            expected = [evaluation.records[index] for index in engine.indices]
            if name == "plain":
                _same_records(key, found, expected)
            pairs = zip(found, expected, strict=True)
            same += sum(abs(one.score - other.score) < _NEAR for one, other in pairs)
    scale = len(setting.samples) / len(engine.indices)
    seconds = made + ran * scale
    return Row(
        search=lead.search,
        engine=name,
        timed_on=len(engine.indices),
        evaluations=lead.evaluations,
        seconds=seconds,
        # the sampler would take as long
        whole_seconds=seconds + lead.whole_seconds - lead.seconds,
        flops=round(executed.flops * scale),
        same_scores=same / (lead.evaluations * len(engine.indices)),
    )
