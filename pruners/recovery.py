"""Put back every m-th pruned token within the budget (METHODS: recovery; what counts against what is ours).

Letters: B samples, M visual tokens that a reduction chooses from.
"""

import torch
from torch import Tensor


def ranked_share(tokens: int, budget: int, every: int) -> int:
    """How many of `budget` tokens are chosen by rank, so that those put back fill the rest exactly.

    It is the largest k with k + floor((tokens - k) / every) <= budget, or 0 where putting back alone would
    exceed the budget.

    >>> ranked_share(16, 8, 4)      # 6 by rank, of the 10 others every fourth: 2
    6
    """
    if budget in (0, tokens):
        return budget
    ranked = budget
    while ranked > 0 and ranked + (tokens - ranked) // every > budget:
        ranked -= 1
    return ranked


def put_back(kept: Tensor, valid: Tensor, budgets: Tensor, every: int) -> Tensor:
    """Add every `every`-th pruned token in raster order to `kept` (B, M), up to `budgets` (B,) tokens.

    Where a budget is too small for all of them, an even selection of them is put back.
    """
    pruned = valid & ~kept
    number = pruned.long().cumsum(1)
    candidate = pruned & (number % every == 0)
    room = (budgets - kept.sum(1))[:, None]
    found = candidate.sum(1, keepdim=True)
    place = candidate.long().cumsum(1)
    share = torch.minimum(room, found)
    # of `found` candidates the ones at which place * share / found passes a whole number: exactly `share`
    passes = place * share // found.clamp(min=1) > (place - 1) * share // found.clamp(min=1)
    return kept | (candidate & passes)
