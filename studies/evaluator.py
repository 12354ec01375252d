"""Evaluators: run a model, pruned or not, over held-out samples and score what it says.

What no schedule can change (image decoding and processing, vision tower, projector) runs once per sample.
All the rest is the user's own path: attach the pruning, call the model. The replay evaluator passes over the
decoder layers that it has run alike before; its numbers are the plain one's, bit for bit.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from pruners.pruning import Pruning
from pruners.replay import replayed
from pruners.runtime import Handle, pruned
from studies.answers import Answerer, Answers, Attach, divergence
from studies.metrics import make_metric
from studies.prompts import form_batches, prompt_lengths
from studies.records import EvaluationSettings, SampleRecord
from studies.replay import SnapshotStore
from studies.samples import Sample
from studies.vision import PreparedBatch, check_encoder, prepare


class PlainEvaluator:
    """Evaluates prunings of one model on one set of samples, batch by batch.

    `batches` come from `form_batches` over *all* samples of the split; a worker that holds a part of them
    gets the same list and calls `run` for its own. Without them they are formed here. The model is put in
    eval mode.

    >>> evaluator = PlainEvaluator(model, processor, samples, "exact_match", EvaluationSettings())
    >>> records = evaluator.run(batch=0, pruning=None)
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        metric: str,
        settings: EvaluationSettings,
        batches: Sequence[Sequence[int]] | None = None,
    ) -> None:
        check_encoder(model)
        self.model, self.processor, self.samples = model.eval(), processor, samples
        self.metric, self.settings = make_metric(metric), settings
        if batches is None:
            lengths = [length.total for length in prompt_lengths(processor, samples)]
            batches = form_batches(lengths, settings.batch_size)
        self.batches = batches
        self._answerer = Answerer(
            model=self.model, tokenizer=processor.tokenizer, max_new_tokens=settings.max_new_tokens
        )
        self._prepared: dict[int, PreparedBatch] = {}
        self._unpruned: dict[int, Answers] = {}
        self._spoken: dict[int, tuple[tuple[int, ...], ...]] = {}

    def attached(self, batch: int, pruning: Pruning) -> AbstractContextManager[Handle]:  # noqa: ARG002
        """The model, pruned, for calls of one batch."""
        return pruned(self.model, pruning)

    @torch.inference_mode()
    def run(self, batch: int, pruning: Pruning | None) -> list[SampleRecord]:
        """Records of the samples of batch number `batch`, in its order, under `pruning` (None: unpruned).

        The first run of a batch also runs it unpruned, for `kl`; this and its image features are remembered.
        """
        if batch not in self._unpruned:
            chosen = [self.samples[index] for index in self.batches[batch]]
            self._prepared[batch] = prepare(self.model, self.processor, chosen)
            self._unpruned[batch] = self._answer(batch, None)
        unpruned = self._unpruned[batch]
        return self._records(batch, unpruned if pruning is None else self._answer(batch, pruning))

    def _answer(self, batch: int, pruning: Pruning | None) -> Answers:
        prepared, attach = self._prepared[batch], self._way(batch, pruning)
        if self.metric.reads == "choices":
            offered = [self.samples[index].choices for index in self.batches[batch]]
            return self._answerer.choose(prepared, offered, attach)
        if self.metric.reads == "reference":
            if batch not in self._spoken:
                self._spoken[batch] = self._answerer.generate(prepared, nullcontext).tokens
            return self._answerer.retrace(prepared, self._spoken[batch], attach)
        return self._answerer.generate(prepared, attach)

    def _way(self, batch: int, pruning: Pruning | None) -> Attach:
        return nullcontext if pruning is None else partial(self.attached, batch, pruning)

    def _records(self, batch: int, answers: Answers) -> list[SampleRecord]:
        unpruned, lengths = self._unpruned[batch], self._prepared[batch].lengths
        records = []
        for row, index in enumerate(self.batches[batch]):
            sample, text = self.samples[index], answers.texts[row]
            kl = divergence(unpruned.log_probs[row], answers.log_probs[row])
            records.append(
                SampleRecord(
                    id=sample.id,
                    prediction=text,
                    score=self.metric.score(text, sample.answers, kl),
                    kl=kl,
                    visual_tokens=lengths[row].visual,
                    text_tokens=lengths[row].text,
                )
            )
        return records


class ReplayEvaluator(PlainEvaluator):
    """Starts every evaluation at the first decoder layer where it differs from what is remembered.

    Snapshots take at most `cache_memory` bytes; what does not fit is computed again. Where the device runs
    out of memory beside them they are given up, and half as much is taken from then on.
    """

    def __init__(self, *args: Any, cache_memory: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.snapshots = SnapshotStore(cache_memory)
        self._last: Pruning | None = None

    def run(self, batch: int, pruning: Pruning | None) -> list[SampleRecord]:
        """As the plain evaluator's, to the bit."""
        try:
            return super().run(batch, pruning)
        except torch.OutOfMemoryError:
            if not self.snapshots.held:
                raise
        self.snapshots.clear()
        self.snapshots.limit //= 2
        return super().run(batch, pruning)

    def attached(self, batch: int, pruning: Pruning) -> AbstractContextManager[Handle]:
        """The model, pruned; its prefills go on from the batch's snapshots."""
        if pruning != self._last:
            self._last = pruning
            self.snapshots.next_turn()
        return replayed(self.model, pruning, self.snapshots.of(batch))
