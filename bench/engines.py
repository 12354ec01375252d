"""Three ways to evaluate the same schedules: as the papers' code does, the whole model per trial, and replay.

*reference* runs one sample at a time: `generate` with pixels, eager attention whose weights are all returned.
*plain* runs vision tower, projector and decoder per trial, in batches. *replay* runs vision tower and
projector once, and decoder layers from the first on that changes. No engine opens an image again for a later
trial.

A answer tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.utils import ModelOutput

from bench.published import output_attentions
from bench.settings import Setting
from pruners import Pruning
from pruners.families import describe
from pruners.rankers import AttentionRanker
from studies.answers import Answerer, divergence
from studies.evaluator import PlainEvaluator, ReplayEvaluator
from studies.metrics import make_metric
from studies.prompts import count_tokens, encode_prompts
from studies.records import SampleRecord
from studies.vision import PreparedBatch

EngineName = Literal["reference", "plain", "replay"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
#: bytes that replay may take for snapshots
_MEMORY = 2**33


class Engine(Protocol):
    """Evaluates prunings."""

    @property
    def indices(self) -> Sequence[int]:
        """Which of the setting's samples it runs."""

    def run(self, pruning: Pruning | None) -> list[SampleRecord]:
        """Their records, in this order. The first run is unpruned."""


def make_engine(name: EngineName, setting: Setting, count: int) -> Engine:
    """An engine for the first `count` samples; a batched one runs whole batches, those of all samples."""
    if name == "reference":
        return ReferenceEngine(setting, count)
    given = setting.model, setting.processor, setting.samples, setting.metric, setting.settings
    if name == "plain":
        return BatchedEngine(PixelEvaluator(*given), count)
    return BatchedEngine(ReplayEvaluator(*given, cache_memory=_MEMORY), count)


class BatchedEngine:
    """A batched evaluator on its first batches, as many as hold `count` samples."""

    def __init__(self, evaluator: PlainEvaluator, count: int) -> None:
        self._evaluator = evaluator
        size = evaluator.settings.batch_size
        self.batches = evaluator.batches[: -(-count // size)]
        self.indices = sorted(index for batch in self.batches for index in batch)

    def run(self, pruning: Pruning | None) -> list[SampleRecord]:
        """Batch after batch."""
        found: dict[int, SampleRecord] = {}
        for number, batch in enumerate(self.batches):
            found.update(zip(batch, self.batch(number, pruning), strict=True))
        return [found[index] for index in self.indices]

    def batch(self, number: int, pruning: Pruning | None) -> list[SampleRecord]:
        """Records of one batch."""
        return self._evaluator.run(number, pruning)


class PixelEvaluator(PlainEvaluator):
    """The whole model per trial: keeps the processor's tensors, and no image features."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answerer = _PixelAnswerer(
            model=self.model,
            tokenizer=self.processor.tokenizer,
            max_new_tokens=self.settings.max_new_tokens,
        )

    @torch.inference_mode()
    def run(self, batch: int, pruning: Pruning | None) -> list[SampleRecord]:
        """As the plain evaluator's, to the bit."""
        if batch not in self._unpruned:
            inputs = encode_prompts(self.processor, [self.samples[index] for index in self.batches[batch]])
            lengths = count_tokens(self.processor, inputs["input_ids"], inputs["attention_mask"])
            given = dict(inputs.to(dtype=self.model.dtype))
            self._prepared[batch] = PreparedBatch(inputs=given, features=ModelOutput(), lengths=lengths)
            self._unpruned[batch] = self._answer(batch, None)
        return super().run(batch, pruning)


class _PixelAnswerer(Answerer):
    """Calls the model with pixels, where others give it image features."""

    def _on_device(self, batch: PreparedBatch, inputs: dict[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        return {name: value.to(self.model.device) for name, value in inputs.items()}


class ReferenceEngine:
    """Sample after sample, as the papers' code does."""

    def __init__(self, setting: Setting, count: int) -> None:
        self.indices = range(min(count, len(setting.samples)))
        self._model, self._processor = setting.model.eval(), setting.processor
        self._samples, self._metric = setting.samples, make_metric(setting.metric)
        self._max_new_tokens = setting.settings.max_new_tokens
        self._prompts: dict[int, Any] = {}
        self._unpruned: dict[int, Tensor] = {}

    @torch.inference_mode()
    def run(self, pruning: Pruning | None) -> list[SampleRecord]:
        """One `generate` per sample; where the metric follows the unpruned answer, it is made to say that."""
        return [self._one(index, pruning) for index in self.indices]

    def _one(self, index: int, pruning: Pruning | None) -> SampleRecord:
        if index not in self._prompts:
            self._prompts[index] = encode_prompts(self._processor, [self._samples[index]])
        prompt, sample = self._prompts[index], self._samples[index]
        length = count_tokens(self._processor, prompt["input_ids"], prompt["attention_mask"])[0]
        follows = self._metric.reads == "reference" and index in self._unpruned
        forced = self._unpruned[index].argmax(1).tolist() if follows else None
        found = self._say(prompt, length.visual, pruning, forced)
        unpruned = self._unpruned.setdefault(index, found)
        compared = len(found) if self._metric.reads == "reference" else 1
        kl = divergence(unpruned[:compared], found[:compared])
        text = self._processor.tokenizer.decode(found.argmax(1), skip_special_tokens=True).strip()
        return SampleRecord(
            id=sample.id,
            prediction=text,
            score=self._metric.score(text, sample.answers, kl),
            kl=kl,
            visual_tokens=length.visual,
            text_tokens=length.text,
        )

    def _say(self, prompt: Any, visual: int, pruning: Pruning | None, forced: list[int] | None) -> Tensor:
        """Log-probabilities (A, V) of a greedy answer, or along a given one."""
        places = (prompt["input_ids"] == self._processor.image_token_id).nonzero()[:, 1]
        before, after = int(places[0]), prompt["input_ids"].shape[1] - int(places[-1]) - 1
        counts = (visual,) * len(describe(self._model).layers)
        rows = 1
        if pruning is not None:
            if not isinstance(pruning.ranker, AttentionRanker):
                raise TypeError("the reference ranks by attention")
            counts = pruning.schedule.counts(visual)
            rows = 1 if pruning.ranker.queries == "last" else after
        with output_attentions(self._model, counts, before, rows):
            made = self._model.generate(
                **prompt,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                logits_processor=[] if forced is None else [_Forced(forced)],
            )
        return torch.cat(made.logits).float().log_softmax(-1)


class _Forced(LogitsProcessor):  # type: ignore[misc] # transformers is not followed
    """Has `generate` say a given answer, whatever the logits."""

    def __init__(self, answer: Sequence[int]) -> None:
        self._left = list(answer)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self._left.pop(0)] = 0
        return forced
