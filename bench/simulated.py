"""Workers that sleep instead of running a model; without torch, so that many of them fit on one machine."""

import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from searchsvc.cluster import Workers
from searchsvc.evaluations import Evaluations
from searchsvc.executor import Executor


@dataclass(frozen=True, kw_only=True)
class Nap:
    """What a sleeping worker needs to know."""

    seconds: float
    #: sample ids of every batch
    batches: tuple[tuple[str, ...], ...]
    visual_tokens: int


class Sleeper:
    """Takes `seconds` over every batch; scores are fixed by the schedule and the sample."""

    def __init__(self, nap: Nap) -> None:
        self._nap = nap

    def run(self, batch: int, pruning: str | None) -> list[Any]:
        """Records of a batch, as `searchsvc.worker.Worker.run` gives them."""
        from studies.records import SampleRecord

        time.sleep(self._nap.seconds)
        return [
            SampleRecord(
                id=sample,
                prediction="",
                score=float(zlib.crc32(f"{sample} {pruning}".encode()) % 10 < 8),
                kl=0.0,
                visual_tokens=self._nap.visual_tokens,
                text_tokens=12,
            )
            for sample in self._nap.batches[batch]
        ]


class SimulatedEvaluations(Evaluations):
    """The service's own evaluations, database and all, on sleeping workers."""

    seconds: float
    batches: int
    visual_tokens = 144

    @cached_property
    def _batches(self) -> tuple[tuple[int, ...], ...]:
        size = len(self._samples) // self.batches
        return tuple(tuple(range(n * size, (n + 1) * size)) for n in range(self.batches))

    def _make_executor(self) -> Executor:
        ids = [sample.id for sample in self._samples.samples]
        nap = Nap(
            seconds=self.seconds,
            batches=tuple(tuple(ids[index] for index in batch) for batch in self._batches),
            visual_tokens=self.visual_tokens,
        )
        workers = Workers(count=self._subject.spec.workers.count, threads=1, address=self._ray_address)
        return Executor(Sleeper, nap, self.batches, workers)
