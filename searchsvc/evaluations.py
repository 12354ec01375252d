"""Evaluations of one split: from the database when it was ever made, else on workers, then remembered."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from db import results, values
from db.errors import NotFound
from db.session import Database
from db.values import Lease
from pruners import Pruning
from searchsvc.executor import RayExecutor, Workers
from searchsvc.subject import Split, Subject
from searchsvc.worker import Job
from studies.evaluator import SampleRecord, form_batches, prompt_lengths
from studies.keys import key_of_content
from studies.measured import Evaluation, evaluation_of
from studies.metrics import make_metric
from studies.models import load_processor
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
    ) -> None:
        self._database = database
        self._subject = subject
        self._split = split
        self._lease = lease
        self._ray_address = ray_address
        self._remember = remember
        self._executor: RayExecutor | None = None
        self._baseline: Evaluation | None = None
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
            self._baseline = self._evaluate(None, self._key(None, ()))
        return self._baseline

    def __call__(self, pruning: Pruning | None) -> Evaluation:
        """Return the evaluation of one schedule on every sample of the split."""
        baseline = self.baseline
        if pruning is None:
            return baseline
        return self._evaluate(pruning, self.key_of(pruning))

    def until(self, pruning: Pruning, judge: Judge) -> Evaluation | Stopped:
        """The same, but given up when the judge says so at a checkpoint; that is not remembered."""
        key = self.key_of(pruning)
        stored = self._remembered(pruning, key)
        if stored is not None:
            # judged all the same: what a study does must not depend on what others remember
            return self._judged(stored, judge)
        started = datetime.now(UTC)
        records = self._workers().evaluate(pruning, partial(self._note_attempt, key, started), judge)
        if len(records) == len(self._samples):
            return self._kept(pruning, key, started, records)
        places = {sample.id: place for place, sample in enumerate(self._samples.samples)}
        return Stopped(
            accuracy=judge.estimate({places[record.id]: record.score for record in records}),
            samples=len(records),
            seconds=(datetime.now(UTC) - started).total_seconds(),
        )

    def side_by_side(self, pruning: Pruning, rounds: int) -> dict[str, Any]:
        """Time a pruning beside none on a worker, afresh; what it returns: `Worker.side_by_side`.

        Raises:
            ServiceError: it has killed its worker again and again.
        """
        note = partial(self._note_attempt, self.key_of(pruning), datetime.now(UTC))
        return self._workers().side_by_side(pruning, rounds, note)

    def key_of(self, pruning: Pruning | None) -> str:
        """Return the key under which the evaluation is remembered; equal token counts have equal keys."""
        return self._key(pruning, [record.visual_tokens for record in self.baseline.records])

    def _key(self, pruning: Pruning | None, visual_tokens: Sequence[int]) -> str:
        return key_of_content(self._subject.key_content(self._split, pruning, visual_tokens))

    def _evaluate(self, pruning: Pruning | None, key: str) -> Evaluation:
        stored = self._remembered(pruning, key)
        if stored is not None:
            return stored
        started = datetime.now(UTC)
        records = self._workers().evaluate(pruning, partial(self._note_attempt, key, started))
        return self._kept(pruning, key, started, records)

    def _kept(
        self, pruning: Pruning | None, key: str, started: datetime, records: Sequence[SampleRecord]
    ) -> Evaluation:
        """Make an evaluation of what was just computed, and remember it."""
        seconds = (datetime.now(UTC) - started).total_seconds()
        evaluation = self._evaluation(pruning, records, seconds=seconds, cached=False)
        if self._remember:
            new = self._new(key, pruning, evaluation)
            results.save_evaluation(self._database, new, lease=self._lease)
            self._note_attempt(key, started, new.worker, None)
        return evaluation

    def _judged(self, evaluation: Evaluation, judge: Judge) -> Evaluation | Stopped:
        lengths = [record.visual_tokens + record.text_tokens for record in evaluation.records]
        batches = form_batches(lengths, self._subject.settings.batch_size)
        seen: dict[int, float] = {}
        for group in checkpoints(len(batches))[:-1]:
            seen.update({index: evaluation.scores[index] for batch in group for index in batches[batch]})
            if judge(seen):
                return Stopped(accuracy=judge.estimate(seen), samples=len(seen), seconds=0.0)
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

    def _note_attempt(self, key: str, started: datetime, worker: str, error: str | None) -> None:
        if self._lease is not None:
            attempt = values.NewAttempt(
                key=key, worker=worker, started_at=started, ended_at=datetime.now(UTC), error=error
            )
            results.record_attempt(self._database, self._lease, attempt)

    def _evaluation(
        self, pruning: Pruning | None, records: Sequence[SampleRecord], *, seconds: float, cached: bool
    ) -> Evaluation:
        return evaluation_of(
            pruning, records, self._subject.shape, self._metric, cached=cached, seconds=seconds
        )

    def _workers(self) -> RayExecutor:
        if self._executor is None:
            workers = self._subject.spec.workers
            self._executor = RayExecutor(
                self._job(),
                Workers(
                    count=workers.count,
                    threads=workers.threads,
                    gpus=workers.gpus_per_worker,
                    address=self._ray_address,
                ),
            ).__enter__()
        return self._executor

    def _job(self) -> Job:
        settings, gpus = self._subject.settings, self._subject.spec.workers.gpus_per_worker
        processor = load_processor(self._subject.location)
        lengths = [length.total for length in prompt_lengths(processor, self._samples.samples)]
        return Job(
            model=self._subject.location,
            samples=self._samples.samples,
            metric=self._samples.metric,
            settings=settings,
            batches=tuple(tuple(batch) for batch in form_batches(lengths, settings.batch_size)),
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
            divergences=tuple(record.kl for record in evaluation.records),
            predictions=tuple(record.prediction for record in evaluation.records),
            cost={
                "ids": [record.id for record in evaluation.records],
                "visual_tokens": [record.visual_tokens for record in evaluation.records],
                "text_tokens": [record.text_tokens for record in evaluation.records],
                "decoder_ratio": evaluation.decoder_ratio,
                "kv_ratio": evaluation.kv_ratio,
                "vision_token_ratio": evaluation.vision_token_ratio,
            },
            seconds=evaluation.seconds,
            worker=f"{self._subject.spec.workers.count} workers on {platform.node()}",
        )


def _records(stored: values.Evaluation) -> list[SampleRecord]:
    """Read the per-sample records back from a stored evaluation."""
    cost = stored.cost
    columns = zip(
        cost["ids"],
        stored.scores,
        stored.divergences or (),
        cost["visual_tokens"],
        cost["text_tokens"],
        stored.predictions or (),
        strict=True,
    )
    return [
        SampleRecord(
            id=id_, score=score, kl=kl, visual_tokens=visual, text_tokens=text, prediction=prediction
        )
        for id_, score, kl, visual, text, prediction in columns
    ]
