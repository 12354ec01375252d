"""Evaluations of one split: from the database when it was ever made, else on workers, then remembered."""

import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self

from db import results, values
from db.errors import NotFound
from db.session import Database
from db.values import Lease
from pruners import Pruning
from searchsvc.cluster import Workers
from searchsvc.executor import Executor
from searchsvc.subject import Split, Subject
from searchsvc.worker import Job, Worker
from studies.keys import key_of_content
from studies.measured import Evaluation, evaluation_of
from studies.metrics import make_metric
from studies.models import load_processor
from studies.prompts import form_batches, prompt_lengths
from studies.records import SampleRecord
from studies.stopping import Judge, Stopped, checkpoints


class Evaluations:
    """Calls evaluate one schedule (None: no pruning). Workers start with the first that must be computed."""

    def __init__(
        self,
        database: Database,
        subject: Subject,
        split: Split,
        *,
        lease: Lease | None = None,
        ray_address: str | None = None,
        remember: bool = True,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._subject = subject
        self._split = split
        self._lease = lease
        self._ray_address = ray_address
        self._remember = remember
        self._on_failure = on_failure
        self._interruption: Exception | None = None
        self._executor: Executor | None = None
        self._baseline: Evaluation | None = None
        self._keys: dict[Pruning | None, str] = {}
        self._samples = subject.samples(split)
        self._metric = make_metric(self._samples.metric)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.__exit__(kind, error, trace)
            self._executor = None

    @property
    def baseline(self) -> Evaluation:
        """The evaluation without pruning; its records say how many tokens each sample has."""
        if self._baseline is None:
            found = self._begin(None, self._key(None, ()), None).result()
            assert isinstance(found, Evaluation)  # nobody judges it
            self._baseline = found
        return self._baseline

    def __call__(self, pruning: Pruning | None) -> Evaluation:
        """Return the evaluation of one schedule on every sample of the split.

        Raises:
            EvaluationError: it failed, or killed its worker, again and again.
            ServiceError: no worker can be started.
        """
        found = self.begin(pruning).result()
        assert isinstance(found, Evaluation)
        return found

    def begin(self, pruning: Pruning | None, judge: Judge | None = None) -> Future[Evaluation | Stopped]:
        """The same without waiting, and given up when the judge, if any, says so; that is not remembered."""
        return _done(self.baseline) if pruning is None else self._begin(pruning, self.key_of(pruning), judge)

    def interrupt(self, error: Exception) -> None:
        """Have whoever waits for an evaluation, now or later, get this error; call it from any thread."""
        self._interruption = error
        if self._executor is not None:
            self._executor.interrupt(error)

    def _begin(self, pruning: Pruning | None, key: str, judge: Judge | None) -> Future[Evaluation | Stopped]:
        stored = self._remembered(pruning, key)
        if stored is not None:
            # judged all the same: what a study does must not depend on what others remember
            return _done(stored if judge is None else self._judged(stored, judge))
        started = datetime.now(UTC)
        return self._workers().begin(
            "run",
            None if pruning is None else pruning.model_dump_json(),
            finish=partial(self._finished, pruning, key, started, judge),
            on_failure=partial(self._note_failure, key, started),
            judge=None if judge is None else lambda found: judge(self._scores(found)),
        )

    def _finished(
        self,
        pruning: Pruning | None,
        key: str,
        started: datetime,
        judge: Judge | None,
        found: Mapping[int, Sequence[SampleRecord]],
    ) -> Evaluation | Stopped:
        """What the answers of some or all batches come to."""
        if judge is not None and len(found) < len(self._batches):
            return judge.stopped(self._scores(found), (datetime.now(UTC) - started).total_seconds())
        records = {
            index: record
            for batch, told in found.items()
            for index, record in zip(self._batches[batch], told, strict=True)
        }
        return self._kept(pruning, key, started, [records[index] for index in sorted(records)])

    def _scores(self, found: Mapping[int, Sequence[SampleRecord]]) -> dict[int, float]:
        return {
            index: record.score
            for batch, told in found.items()
            for index, record in zip(self._batches[batch], told, strict=True)
        }

    def side_by_side(self, pruning: Pruning, rounds: int) -> dict[str, Any]:
        """Time a pruning beside none on a worker, afresh; what it returns: `Worker.side_by_side`.

        Raises:
            ServiceError: it has killed its worker again and again.
        """
        note = partial(self._note_failure, self.key_of(pruning), datetime.now(UTC))
        timed: dict[str, Any] = self._workers().alone(
            "side_by_side", pruning.model_dump_json(), rounds, on_failure=note
        )
        return timed

    def key_of(self, pruning: Pruning | None) -> str:
        """Return the key under which the evaluation is remembered; equal token counts have equal keys."""
        if pruning not in self._keys:
            visual_tokens = [record.visual_tokens for record in self.baseline.records]
            self._keys[pruning] = self._key(pruning, visual_tokens)
        return self._keys[pruning]

    def _key(self, pruning: Pruning | None, visual_tokens: Sequence[int]) -> str:
        return key_of_content(self._subject.key_content(self._split, pruning, visual_tokens))

    def _kept(
        self, pruning: Pruning | None, key: str, started: datetime, records: Sequence[SampleRecord]
    ) -> Evaluation:
        """Make an evaluation of what was just computed, and remember it."""
        seconds = (datetime.now(UTC) - started).total_seconds()
        evaluation = self._evaluation(pruning, records, seconds=seconds, cached=False)
        if self._remember:
            new = self._new(key, pruning, evaluation)
            attempt = _attempt(key, started, new.worker, None)
            results.save_evaluation(self._database, new, lease=self._lease, attempt=attempt)
        return evaluation

    def _judged(self, evaluation: Evaluation, judge: Judge) -> Evaluation | Stopped:
        seen: dict[int, float] = {}
        for group in checkpoints(len(self._batches))[:-1]:
            seen.update({n: evaluation.scores[n] for batch in group for n in self._batches[batch]})
            if judge(seen):
                return judge.stopped(seen, 0.0)
        return evaluation

    def _remembered(self, pruning: Pruning | None, key: str) -> Evaluation | None:
        stored = results.find_evaluation(self._database, key) if self._remember else None
        if stored is None:
            return None
        if self._lease is not None:
            try:
                results.link_evaluation(self._database, self._lease, key)
            except NotFound:  # deleted between the two
                return None
        return self._evaluation(pruning, _records(stored), seconds=stored.seconds, cached=True)

    def _note_failure(self, key: str, started: datetime, worker: str, error: str) -> None:
        self._on_failure(error)
        if self._lease is not None:
            results.record_attempt(self._database, self._lease, _attempt(key, started, worker, error))

    def _evaluation(
        self, pruning: Pruning | None, records: Sequence[SampleRecord], *, seconds: float, cached: bool
    ) -> Evaluation:
        return evaluation_of(
            pruning, records, self._subject.shape, self._metric, cached=cached, seconds=seconds
        )

    def _workers(self) -> Executor:
        if self._executor is None:
            self._executor = self._make_executor().__enter__()
        if self._interruption is not None:  # while they started
            self._executor.interrupt(self._interruption)
        return self._executor

    def _make_executor(self) -> Executor:
        spec, batches = self._subject.spec.workers, len(self._batches)
        workers = Workers(
            count=min(spec.count, batches * spec.parallel_trials),
            threads=spec.threads,
            gpus=spec.gpus_per_worker,
            address=self._ray_address,
            batch_timeout=spec.batch_timeout,
        )
        return Executor(Worker, self._job(), batches, workers)

    @cached_property
    def _batches(self) -> tuple[tuple[int, ...], ...]:
        """Formed once, whatever the number of workers."""
        processor = load_processor(self._subject.location)
        lengths = [length.total for length in prompt_lengths(processor, self._samples.samples)]
        return tuple(tuple(batch) for batch in form_batches(lengths, self._subject.settings.batch_size))

    def _job(self) -> Job:
        settings, gpus = self._subject.settings, self._subject.spec.workers.gpus_per_worker
        return Job(
            model=self._subject.location,
            samples=self._samples.samples,
            metric=self._samples.metric,
            settings=settings,
            batches=self._batches,
            # a single evaluation has nothing in common with another one
            cache_memory=self._subject.spec.workers.cache_memory if self._remember else 0,
            sharers=max(1, int(1 / gpus)) if gpus else self._subject.spec.workers.count,
        )

    def _new(self, key: str, pruning: Pruning | None, evaluation: Evaluation) -> values.NewEvaluation:
        return values.NewEvaluation(
            key=key,
            model=self._subject.model,
            dataset=self._subject.dataset,
            split=self._split,
            metric=self._samples.metric,
            pruning=None if pruning is None else pruning.model_dump(mode="json"),
            tokens_per_layer=tuple(evaluation.tokens_per_layer),
            accuracy=evaluation.accuracy,
            scores=tuple(evaluation.scores),
            samples=values.SampleSet(
                ids=tuple(record.id for record in evaluation.records),
                visual_tokens=tuple(record.visual_tokens for record in evaluation.records),
                text_tokens=tuple(record.text_tokens for record in evaluation.records),
            ),
            divergences=tuple(record.kl for record in evaluation.records),
            predictions=tuple(record.prediction for record in evaluation.records),
            cost={
                "decoder_ratio": evaluation.decoder_ratio,
                "kv_ratio": evaluation.kv_ratio,
                "vision_token_ratio": evaluation.vision_token_ratio,
            },
            seconds=evaluation.seconds,
            worker=f"{self._subject.spec.workers.count} workers on {platform.node()}",
        )


def _attempt(key: str, started: datetime, worker: str, error: str | None) -> values.NewAttempt:
    return values.NewAttempt(
        key=key, worker=worker, started_at=started, ended_at=datetime.now(UTC), error=error
    )


def _done(outcome: Evaluation | Stopped) -> Future[Evaluation | Stopped]:
    future: Future[Evaluation | Stopped] = Future()
    future.set_result(outcome)
    return future


def _records(stored: values.Evaluation) -> list[SampleRecord]:
    """Read the per-sample records back from a stored evaluation."""
    samples = stored.samples
    assert samples is not None  # `_new` gives them
    columns = zip(
        samples.ids,
        stored.scores,
        stored.divergences or (),
        samples.visual_tokens,
        samples.text_tokens,
        stored.predictions or (),
        strict=True,
    )
    return [
        SampleRecord(
            id=id_, score=score, kl=kl, visual_tokens=visual, text_tokens=text, prediction=prediction
        )
        for id_, score, kl, visual, text, prediction in columns
    ]
