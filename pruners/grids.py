"""Where on its image's grid each visual token lies.

Letters: N visual tokens of a sample.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Places(NamedTuple):
    """Row and column, centre of the grid (both float32, (..., N, 2)), and number of the image (..., N)."""

    grid: Tensor
    centre: Tensor
    image: Tensor


def token_places(visual: Tensor, grid: tuple[int, int] | None) -> Places:
    """Places of every sample's visual tokens, (B, N, ...), padded at the end; `visual` is a (B, T) bool mask.

    A run of placeholders without a gap holds one image, or several where `grid` (rows, columns) divides it.
    An image without a known grid is laid out on the most square one that its tokens fill.
    """
    samples = [_sample_places(row.nonzero()[:, 0], grid) for row in visual.cpu()]
    padded = [pad_sequence(list(part), batch_first=True) for part in zip(*samples, strict=True)]
    return Places(*(part.to(visual.device) for part in padded))


def _sample_places(positions: Tensor, grid: tuple[int, int] | None) -> Places:
    parts = []
    for run in _runs(positions):
        rows, columns = grid if grid and run % (grid[0] * grid[1]) == 0 else _squarest(run)
        parts += [(rows, columns)] * (run // (rows * columns))
    places = [torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) for rows, columns in parts]
    sizes = torch.tensor([rows * columns for rows, columns in parts], dtype=torch.int64)
    centres = torch.tensor([[(rows - 1) / 2, (columns - 1) / 2] for rows, columns in parts]).reshape(-1, 2)
    return Places(
        torch.cat([*places, torch.empty(0, 2)]).float(),
        centres.repeat_interleave(sizes, 0),
        torch.arange(len(parts)).repeat_interleave(sizes),
    )


def _runs(positions: Tensor) -> list[int]:
    """Lengths of the runs of consecutive numbers in an ascending (N,) tensor."""
    if not len(positions):
        return []
    ends = (positions.diff() != 1).nonzero()[:, 0] + 1
    bounds = [0, *ends.tolist(), len(positions)]
    return [after - before for before, after in itertools.pairwise(bounds)]


def _squarest(tokens: int) -> tuple[int, int]:
    """Rows and columns, rows <= columns, nearest to a square.

    >>> _squarest(12), _squarest(7)
    ((3, 4), (1, 7))
    """
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows
