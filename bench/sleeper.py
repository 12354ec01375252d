"""A worker that sleeps instead of running a model. It imports neither torch nor Optuna, so that many fit."""

import time
import zlib
from dataclasses import dataclass
from typing import Any

from studies.records import SampleRecord


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
