"""Answers: what a model says about a prepared batch, and the distributions it says it from.

Legend: B samples, T prompt tokens, A answer tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruners.runtime import Handle
from studies.errors import ModelError
from studies.vision import PreparedBatch, place

#: Puts the model in the state that answers; gives its pruning handle, None where it is not pruned.
Attach = Callable[[], AbstractContextManager[Handle | None]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One answer per sample of a batch."""

    texts: tuple[str, ...]
    #: Per sample log-probabilities (A, V), fp32 on the CPU, at the answer positions that are compared.
    log_probs: tuple[Tensor, ...]
    #: Per sample the answer's token ids, its end token included; empty where nothing was generated.
    tokens: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """Runs prepared batches through one model, in the state that `attach` puts it in."""

    model: Any
    tokenizer: Any
    max_new_tokens: int

    def generate(self, batch: PreparedBatch, attach: Attach) -> Answers:
        """Greedy answers; log_probs are the first token's, (1, V). One token costs one forward."""
        with attach():
            made = self.model.generate(
                **self._on_device(batch, batch.inputs),
                use_cache=True,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            )
        said = made.sequences[:, batch.inputs["input_ids"].shape[1] :].cpu()
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return Answers(
            texts=tuple(text.strip() for text in texts),
            log_probs=tuple(_log_probs(made.logits[0]).unsqueeze(1)),
            tokens=tuple(self._until_end(row) for row in said.tolist()),
        )

    def choose(self, batch: PreparedBatch, choices: Sequence[Sequence[str]], attach: Attach) -> Answers:
        """The likeliest of each sample's choices: the sum of its tokens' log-probabilities after the prompt.

        log_probs are those of the first answer token, (1, V). Runs the batch once per choice.
        """
        tokens = [[self._tokens(choice) for choice in offered] for offered in choices]
        scores: list[list[float]] = [[] for _ in choices]
        first: tuple[Tensor, ...] = ()
        for turn in range(max(map(len, choices))):
            forced = [offered[min(turn, len(offered) - 1)] for offered in tokens]
            found = self.force(batch, forced, attach)
            first = first or tuple(rows[:1] for rows in found)
            for sample, (rows, answer) in enumerate(zip(found, forced, strict=True)):
                if turn < len(choices[sample]):
                    scores[sample].append(float(rows.gather(1, torch.tensor(answer).unsqueeze(1)).sum()))
        best = [max(range(len(row)), key=row.__getitem__) for row in scores]
        return Answers(texts=tuple(choices[i][at] for i, at in enumerate(best)), log_probs=first)

    def retrace(self, batch: PreparedBatch, tokens: Sequence[Sequence[int]], attach: Attach) -> Answers:
        """The likeliest token at every position along given answers; log_probs are (A, V)."""
        found = self.force(batch, tokens, attach)
        texts = [self.tokenizer.decode(rows.argmax(dim=1), skip_special_tokens=True) for rows in found]
        return Answers(texts=tuple(text.strip() for text in texts), log_probs=found)

    def force(
        self, batch: PreparedBatch, answers: Sequence[Sequence[int]], attach: Attach
    ) -> tuple[Tensor, ...]:
        """Log-probabilities (A, V) of the tokens of each sample's given answer, in one forward.

        Answer tokens never rank: the handle is told how long the prompts are.
        """
        longest = max(map(len, answers))
        with attach() as handle:
            if handle is not None:
                handle.prompt_lengths = torch.tensor([length.total for length in batch.lengths])
            logits = self.model(
                **self._on_device(batch, _append(batch, answers, self.tokenizer.pad_token_id)),
                logits_to_keep=longest + 1,
                use_cache=False,
            ).logits
        # Rows end flush right, pruned or not: the A logits before a row's last foretell its A answer tokens.
        return tuple(
            _log_probs(row[-len(answer) - 1 : -1]) for row, answer in zip(logits, answers, strict=True)
        )

    def _on_device(self, batch: PreparedBatch, inputs: dict[str, Tensor]) -> dict[str, Any]:
        device = self.model.device
        moved: dict[str, Any] = {name: value.to(device) for name, value in inputs.items()}
        return {**moved, "mm_encoder_outputs": {"image": place(batch.features, device)}}

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _until_end(self, row: list[int]) -> tuple[int, ...]:
        ends = self.model.generation_config.eos_token_id
        stops = {ends} if isinstance(ends, int) else set(ends or ())
        last = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
        return tuple(row[: last + 1])


def _append(batch: PreparedBatch, answers: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """The prompts' tensors with an answer after each prompt, padded on the left again, (B, T + A)."""
    mask = batch.inputs["attention_mask"].bool()
    width = max(int(row.sum()) + len(answer) for row, answer in zip(mask, answers, strict=True))
    longer = {}
    for name, value in batch.inputs.items():
        if value.shape != mask.shape:
            longer[name] = value
            continue
        filled = value.new_full((len(answers), width), pad if name == "input_ids" else 0)
        for row, answer in enumerate(answers):
            ids = answer if name == "input_ids" else [int(name == "attention_mask")] * len(answer)
            whole = torch.cat([value[row][mask[row]], value.new_tensor(ids)])
            filled[row, width - len(whole) :] = whole
        longer[name] = filled
    return longer


def _log_probs(logits: Tensor) -> Tensor:
    found = logits.float().log_softmax(dim=-1).cpu()
    if found.isnan().any():
        raise ModelError("the model's logits are not numbers (NaN): load it in bfloat16 or float32")
    return found


def divergence(reference: Tensor, other: Tensor) -> float:
    """Mean over A rows of KL(reference || other) in nats; both hold log-probabilities, (A, V)."""
    p, q = reference.double(), other.double()
    terms = torch.where(p > -torch.inf, p.exp() * (p - q), 0.0)
    return max(0.0, float(terms.sum(dim=1).mean()))
