"""The service's own evaluations on workers that sleep."""

import time
from functools import cached_property

from bench.sleeper import Nap, Sleeper
from searchsvc.cluster import Workers
from searchsvc.evaluations import Evaluations
from searchsvc.executor import Executor
from studies.measured import Evaluation


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


class Assembled(SimulatedEvaluations):
    """A search begins when all workers are ready: what starting so many processes takes is not counted."""

    @property
    def baseline(self) -> Evaluation:
        found = super().baseline
        while len(self._workers()._dispatcher.workers) < self._subject.spec.workers.count:
            time.sleep(0.05)
        return found
