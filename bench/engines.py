"""Three ways to evaluate the same schedules: as the papers' code does, the whole model per trial, and replay.

B samples, n tokens that enter a layer, D width.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bench.published import output_attentions
from pruners import Pruning
from pruners.costs import ModelShape
from pruners.families import describe
from pruners.rankers import AttentionRanker
from studies.answers import divergence
from studies.evaluator import PlainEvaluator
from studies.metrics import make_metric
from studies.prompts import count_tokens, encode_prompts
from studies.records import SampleRecord
from studies.samples import Sample

ENGINES = ("reference", "plain", "replay")


class ReferenceEvaluator:
    """Batch 1, `generate` with pixels for every trial, eager attention whose weights are all returned.

    Images are opened and resized once; the papers' code would do that for every trial, too.
    """

    def __init__(
        self, model: Any, processor: Any, samples: Sequence[Sample], metric: str, max_new_tokens: int
    ) -> None:
        self.model, self.processor, self.samples = model.eval(), processor, samples
        self.metric, self.max_new_tokens = make_metric(metric), max_new_tokens
        self._image = processor.image_token_id
        self._prompts: dict[int, Any] = {}
        self._unpruned: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def run(self, pruning: Pruning | None) -> list[SampleRecord]:
        """Records of all samples, in their order."""
        return [self._one(index, pruning) for index in range(len(self.samples))]

    def _one(self, index: int, pruning: Pruning | None) -> SampleRecord:
        if index not in self._prompts:
            self._prompts[index] = encode_prompts(self.processor, [self.samples[index]])
        prompt, sample = self._prompts[index], self.samples[index]
        length = count_tokens(self.processor, prompt["input_ids"], prompt["attention_mask"])[0]
        text, first = self._say(prompt, length.visual, pruning)
        unpruned = self._unpruned.setdefault(index, first)
        kl = divergence(unpruned, first)
        return SampleRecord(
            id=sample.id,
            prediction=text,
            score=self.metric.score(text, sample.answers, kl),
            kl=kl,
            visual_tokens=length.visual,
            text_tokens=length.text,
        )

    def _say(self, prompt: Any, visual: int, pruning: Pruning | None) -> tuple[str, torch.Tensor]:
        places = (prompt["input_ids"][0] == self._image).nonzero()[:, 0]
        before, after = int(places[0]), prompt["input_ids"].shape[1] - int(places[-1]) - 1
        layers = len(describe(self.model).layers)
        counts = (visual,) * layers if pruning is None else pruning.schedule.counts(visual)
        rows = 1
        if pruning is not None:
            if not isinstance(pruning.ranker, AttentionRanker):
                raise TypeError("the reference ranks by attention")
            rows = 1 if pruning.ranker.queries == "last" else after
        with output_attentions(self.model, counts, before, rows):
            made = self.model.generate(
                **prompt,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        said = made.sequences[:, prompt["input_ids"].shape[1] :]
        text = self.processor.tokenizer.batch_decode(said, skip_special_tokens=True)[0]
        return text.strip(), made.logits[0].float().log_softmax(-1)


def run_batches(evaluator: PlainEvaluator, pruning: Pruning | None) -> list[SampleRecord]:
    """Records of all samples of a batched evaluator, in their order."""
    found: dict[int, SampleRecord] = {}
    for number, batch in enumerate(evaluator.batches):
        found.update(zip(batch, evaluator.run(number, pruning), strict=True))
    return [found[index] for index in sorted(found)]


class Executed:
    """FLOPs of the decoder layers that really run, padding included, read off the tensors that enter them."""

    def __init__(self, model: nn.Module) -> None:
        self.flops = 0
        self._layers = describe(model).layers
        self._shape = ModelShape.from_config(model.config)
        self._costs: Counter[tuple[int, int, int]] = Counter()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count for the length of a block."""
        hooks = [
            layer.self_attn.register_forward_pre_hook(self._see, with_kwargs=True) for layer in self._layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.flops = sum(
                calls * samples * layer_flops(self._shape, tokens, keys)
                for (samples, tokens, keys), calls in self._costs.items()
            )

    def _see(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        samples, tokens = hidden.shape[:2]
        cache = kwargs.get("past_key_values")
        held = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))
        self._costs[samples, tokens, held + tokens] += 1


def layer_flops(shape: ModelShape, tokens: int, keys: int) -> int:
    """Of one decoder layer on `tokens` of one sample that attend to `keys`: two per multiply-accumulate."""
    matrices = shape.attention_matrices + shape.mlp_matrices(0)
    return 2 * tokens * matrices + 4 * tokens * keys * shape.num_heads * shape.head_dim
