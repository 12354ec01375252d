"""The two counters of prefill FLOPs, by tokens per layer.

Letters: n tokens that a layer processes (text and kept visual), d hidden size, m MLP width, H heads.
Neither counts norms, activations, softmax, rotary embedding, the look-up of embeddings, the ranking of visual
tokens, or decoding.
"""

from collections.abc import Sequence

from pruners.costs.shape import ModelShape


def paper_flops(shape: ModelShape, tokens_per_layer: Sequence[int]) -> int:
    """4nd^2 + 2n^2 d + 2ndm, summed over the layers: FastV's estimate (arXiv 2403.06764, section 4.2).

    It takes a multiply-accumulate for one FLOP, gives the MLP two matrices, and knows neither grouped queries
    nor lm_head nor the vision tower. The column "Flops(B)" of FastV's Table 1 is its mean per layer.
    """
    d = shape.hidden_size
    return sum(
        4 * n * d * d + 2 * n * n * d + 2 * n * d * shape.mlp_width(layer)
        for layer, n in enumerate(tokens_per_layer)
    )


def decoder_flops(shape: ModelShape, tokens_per_layer: Sequence[int]) -> int:
    """Exact FLOPs (2 per multiply-accumulate) of the decoder layers, attention as the full square.

    A mixture of experts costs its active experts and its router. Torch's FlopCounterMode counts the same on a
    plain forward.
    """
    attention = shape.num_heads * shape.head_dim
    return sum(
        2 * n * matrices + 4 * n * n * attention
        for n, matrices in zip(tokens_per_layer, shape.layer_matrices, strict=False)
    )


def lm_head_flops(shape: ModelShape, positions: int) -> int:
    """FLOPs of the vocabulary's logits at this many positions."""
    return 2 * positions * shape.hidden_size * shape.vocab_size


def kv_bytes(shape: ModelShape, tokens_per_layer: Sequence[int]) -> int:
    """Bytes of keys and values after prefill, at the shape's bytes per value (sliding windows left out)."""
    return sum(tokens_per_layer) * 2 * shape.num_kv_heads * shape.head_dim * shape.bytes_per_value
