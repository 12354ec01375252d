"""The attention rows by themselves, against the whole matrix written out."""

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pruners import scores
from pruners.scores import attention_received, key_norms

#: samples, query heads, key-value heads, queries, keys, head size
B, H, G, Q, K, D = 2, 4, 2, 6, 9, 8


def tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, H, Q, D, generator=generator), torch.randn(B, G, K, D, generator=generator)


def padding() -> Tensor:
    """(B, K): the second sample's first key is padding."""
    valid = torch.ones(B, K, dtype=torch.bool)
    valid[1, 0] = False
    return valid


def allowed() -> Tensor:
    """(B, Q, K): causal, the queries being the last keys."""
    return (torch.arange(K) <= torch.arange(Q)[:, None] + K - Q) & padding()[:, None]


def naive(rows: list[list[int]], visual: list[list[int]]) -> Tensor:
    query, key = (x.double() for x in tensors())
    received = torch.zeros(B, len(visual[0]), dtype=torch.float64)
    for sample in range(B):
        weights = []
        for head in range(H):
            logits = query[sample, head] @ key[sample, head * G // H].T / D**0.5
            weights.append(logits.masked_fill(~allowed()[sample], float("-inf")).softmax(-1))
        mean = torch.stack(weights).mean(0)
        for number, token in enumerate(visual[sample]):
            column = token + K - Q
            voters = [row for row in rows[sample] if column <= row + K - Q]
            received[sample, number] = sum(mean[row, column] for row in voters) / len(voters)
    return received


MASKS = {
    "bool": allowed()[:, None],
    "float": torch.zeros(B, 1, Q, K).masked_fill(~allowed()[:, None], torch.finfo(torch.float32).min),
    "per head": allowed()[:, None].expand(-1, H, -1, -1),
    "flat": padding().long(),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("block", [2**24, 1])
def test_every_form_of_mask_gives_the_same_rows(
    mask: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_BLOCK", block)
    rows = [[1, 4, 5], [3, 5, 5]]
    voting = torch.tensor([[True, True, True], [True, True, False]])
    visual = torch.tensor([[0, 1, 3], [1, 2, 3]])
    found = attention_received(*tensors(), MASKS[mask], torch.tensor(rows), voting, visual)
    expected = naive([[1, 4, 5], [3, 5]], visual.tolist())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


def test_no_mask_means_causal_with_the_queries_last() -> None:
    rows, visual = torch.tensor([[1, 5], [1, 5]]), torch.tensor([[0, 2], [0, 2]])
    voting = torch.ones(B, 2, dtype=torch.bool)
    found = attention_received(*tensors(), None, rows, voting, visual)[0]
    torch.testing.assert_close(found.double(), naive(rows.tolist(), visual.tolist())[0], rtol=1e-5, atol=1e-7)


def test_scaling_is_the_layers_own() -> None:
    query, key = tensors()
    places = torch.tensor([[5], [5]]), torch.ones(B, 1, dtype=torch.bool), torch.tensor([[0, 1], [0, 1]])
    given = attention_received(query, key, None, *places, scaling=0.1)
    scaled = attention_received(query * 0.1 * D**0.5, key, None, *places)
    torch.testing.assert_close(given, scaled)


def test_key_norms_are_the_queries_own_tokens_and_a_mean_over_heads() -> None:
    query, key = tensors()
    visual = torch.tensor([[0, 1, 3], [1, 2, 5]])
    found = key_norms(query, key, visual)
    for sample, tokens in enumerate(visual.tolist()):
        for number, token in enumerate(tokens):
            heads = [float(head[token + K - Q].double().square().sum()) ** 0.5 for head in key[sample]]
            assert float(found[sample, number]) == pytest.approx(sum(heads) / G, rel=1e-6)


def test_key_norms_do_not_depend_on_the_rotation() -> None:
    query, key = tensors()
    visual = torch.tensor([[0, 1, 3], [1, 2, 5]])
    angles = torch.arange(K)[:, None] * torch.logspace(0, -2, D // 2)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    rotated = apply_rotary_pos_emb(key, key, cos[None], sin[None])[1]
    assert not torch.allclose(rotated, key)
    torch.testing.assert_close(key_norms(query, rotated, visual), key_norms(query, key, visual))
