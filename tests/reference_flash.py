"""FlashAttention's functions in plain torch, with its rules: what transformers calls under either name.

A causal mask and a window are aligned with the last key. Rows of a varlen call lie one behind the other.

Letters: B samples, Q and K tokens of one sample, H heads, G key-value heads, D head size.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import modeling_flash_attention_utils as flash


@dataclass
class Kernel:
    """Stands for the compiled functions, and keeps what each call was about."""

    #: one per call: (tokens, keys) of each sample
    calls: list[list[tuple[int, int]]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Have transformers import these functions for flash_attention_2 or flash_attention_3."""
        functions = (
            (self.same_length, self.varlen) if name.endswith("2") else (self.same_length_3, self.varlen_3)
        )
        imported = (*functions, None, flash._pad_input, flash._unpad_input)
        monkeypatch.setattr(flash, "_lazy_imports", lambda *_, **__: imported)
        monkeypatch.setattr(flash, "_loaded_implementation", None)

    def same_length(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Tensor:
        """(B, Q, H, D) of (B, Q, H, D) and (B, K, G, D)."""
        assert dropout_p == softcap == 0
        return self.same_length_3(q, k, v, softmax_scale, causal, window_size)[0]

    def varlen(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> Tensor:
        """(all Q, H, D) of (all Q, H, D) and (all K, G, D)."""
        assert dropout_p == softcap == 0
        lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        return self.varlen_3(q, k, v, *lengths, softmax_scale, causal, window_size)[0]

    def same_length_3(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        deterministic: bool = False,
    ) -> tuple[Tensor, None]:
        """FlashAttention 3 knows no dropout, and may return the sums of its softmax as well."""
        self.calls.append([(q.shape[1], k.shape[1])] * len(q))
        rows = zip(q, k, v, strict=True)
        return torch.stack([_attend(*row, softmax_scale, causal, window_size) for row in rows]), None

    def varlen_3(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        deterministic: bool = False,
    ) -> tuple[Tensor, None]:
        """The same for rows of different lengths."""
        queries, keys = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
        assert (max(queries), max(keys)) == (int(max_seqlen_q), int(max_seqlen_k))
        assert (sum(queries), sum(keys)) == (len(q), len(k))
        self.calls.append(list(zip(queries, keys, strict=True)))
        rows = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
        return torch.cat([_attend(*row, softmax_scale, causal, window_size) for row in rows]), None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool, window: tuple[int, int]
) -> Tensor:
    """(Q, H, D) of one sample."""
    heads, width = q.shape[1:]
    keys, values = (part.repeat_interleave(heads // part.shape[1], 1) for part in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, keys) * (width**-0.5 if scale is None else scale)
    distance = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
    seen = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        seen &= distance >= 0
    if window[0] >= 0:
        seen &= distance <= window[0]
    weights: Any = logits.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("hqk,khd->qhd", weights, values)
