"""How alike visual tokens are.

Letters: B samples, M visual tokens, P tokens that they are held against, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cosine_similarity(tokens: Tensor, others: Tensor) -> Tensor:
    """(B, M, P) float32 cosines of `tokens` (B, M, D) and `others` (B, P, D); a zero vector is like none."""
    return torch.bmm(normalize(tokens.float(), dim=-1), normalize(others.float(), dim=-1).transpose(1, 2))
