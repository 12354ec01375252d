"""What runs inside a worker process: one model replica, and the batches that were given to it.

Whoever starts workers imports this, and has no use for what runs a model: it is imported where it is used.
"""

from dataclasses import dataclass
from typing import Any

from pruners import Pruning
from studies.records import EvaluationSettings, SampleRecord
from studies.samples import Sample
from studies.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to evaluate any schedule on one split; sent once."""

    model: ModelSpec
    samples: tuple[Sample, ...]
    metric: str
    settings: EvaluationSettings
    #: Indices into `samples`; formed once for the whole split, whatever the number of workers.
    batches: tuple[tuple[int, ...], ...]
    #: bytes for what evaluations have in common, of each worker; None: a share of what is free
    cache_memory: int | None
    #: workers that share a GPU's memory, or a machine's
    sharers: int


class Worker:
    """An evaluator in a process of its own; vision features are computed for the batches it is asked for."""

    def __init__(self, job: Job) -> None:
        import torch

        from studies.evaluator import PlainEvaluator, ReplayEvaluator
        from studies.memory import snapshot_memory
        from studies.models import load

        torch.set_num_threads(job.settings.threads)
        self._model, self._processor, _ = load(job.model, device=job.settings.device)
        given = self._model, self._processor, job.samples, job.metric, job.settings, job.batches
        memory = job.cache_memory
        if memory is None:
            memory = snapshot_memory(self._model.device, job.sharers)
        self._evaluator = ReplayEvaluator(*given, cache_memory=memory) if memory else PlainEvaluator(*given)

    def ping(self) -> bool:
        """Answer once the model is loaded."""
        return True

    def run(self, batch: int, pruning: str | None) -> list[SampleRecord]:
        """Evaluate one batch under a pruning given as JSON; None is no pruning."""
        chosen = None if pruning is None else Pruning.model_validate_json(pruning)
        return self._evaluator.run(batch, chosen)

    def side_by_side(self, batch: int, pruning: str, rounds: int) -> dict[str, Any]:
        """Time the `generate` of one batch under a pruning given as JSON and under none, taking turns.

        Returns what `searchsvc.speed.side_by_side` does, and `device_name`. The prefill includes the vision
        tower, as a user's own call does.
        """
        from searchsvc.speed import device_name, side_by_side
        from studies.evaluator import ReplayEvaluator
        from studies.prompts import encode_prompts

        evaluator, model = self._evaluator, self._model
        if isinstance(evaluator, ReplayEvaluator):
            # nothing is left to search, and the time is measured with the memory that a user has
            evaluator.snapshots.clear()
        samples = [evaluator.samples[index] for index in evaluator.batches[batch]]
        inputs = encode_prompts(self._processor, samples).to(device=model.device, dtype=model.dtype)
        found = side_by_side(model, inputs, Pruning.model_validate_json(pruning), rounds)
        return {"device_name": device_name(model.device), **found}
