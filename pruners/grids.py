"""Where on its picture's grid each visual token lies.

Letters: B samples, T tokens of a row, N visual tokens of a sample.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pruners.pictures import Picture, Pictures


class Places(NamedTuple):
    """Row and column, centre of the grid (both float32, (..., N, 2)), and number of the picture (..., N)."""

    grid: Tensor
    centre: Tensor
    image: Tensor


class Layout(NamedTuple):
    """What is known about a call's pictures, by placeholder id where it depends on that."""

    #: every picture of the call
    pictures: Pictures
    #: or how many tiles its pixels are
    tiles: dict[int, int]
    #: rows and columns of one image's or tile's tokens, where all have the same
    grid: tuple[int, int] | None


def token_places(ids: Tensor, visual: Tensor, layout: Layout) -> Places:
    """Places of every sample's visual tokens, (B, N, ...), padded at the end; `visual` is a (B, T) bool mask.

    Where the call's own pictures are not told, or do not add up to the tokens that `ids` (B, T) hold, a run
    of placeholders without a gap holds one picture, or several where the known grid divides it. A picture
    without a known grid is laid out on the most square one that its tokens fill.
    """
    ids, there = ids.cpu(), visual.cpu()
    kinds, positions = ids[there], _with_gaps(there)
    places = Places(torch.empty(len(kinds), 2), torch.empty(len(kinds), 2), torch.empty(len(kinds)).long())
    first = 0
    for kind in sorted(set(kinds.tolist())):
        mine = kinds == kind
        pictures = _pictures(positions[mine], kind, layout)
        for whole, part in zip(places, _laid_out(pictures), strict=True):
            whole[mine] = part
        places.image[mine] += first
        first += len(pictures)
    return _by_sample(places, there, visual.device)


def _with_gaps(there: Tensor) -> Tensor:
    """Positions of the true places of (B, T), counted on from row to row; a row's end touches no other."""
    rows, columns = there.nonzero(as_tuple=True)
    return rows * (there.shape[1] + 1) + columns


def _pictures(positions: Tensor, kind: int, layout: Layout) -> list[Picture]:
    told = layout.pictures.get(kind, [])
    if sum(picture.tokens for picture in told) == len(positions):
        return told
    runs = _runs(positions)
    grid = layout.grid or _even_grid(len(positions), layout.tiles.get(kind, 0))
    return [picture for run in runs for picture in _of_run(run, grid)]


def _even_grid(tokens: int, tiles: int) -> tuple[int, int] | None:
    """The grid of one of `tiles` equal parts."""
    return squarest(tokens // tiles) if tiles and tokens % tiles == 0 else None


def _of_run(run: int, grid: tuple[int, int] | None) -> list[Picture]:
    rows, columns = grid if grid and run % (grid[0] * grid[1]) == 0 else squarest(run)
    return [Picture(rows, columns)] * (run // (rows * columns))


def _laid_out(pictures: list[Picture]) -> Places:
    """The tokens of pictures one after the other; a newline has the column behind the last."""
    grids = [
        torch.cartesian_prod(torch.arange(rows), torch.arange(columns + newlines))
        for rows, columns, newlines in pictures
    ]
    centres = torch.tensor([[(rows - 1) / 2, (columns - 1) / 2] for rows, columns, _ in pictures])
    sizes = torch.tensor([picture.tokens for picture in pictures])
    return Places(
        torch.cat(grids).float(),
        centres.repeat_interleave(sizes, 0),
        torch.arange(len(pictures)).repeat_interleave(sizes),
    )


def _by_sample(places: Places, there: Tensor, device: torch.device) -> Places:
    """Places (all N, ...) as (B, N, ...); every sample counts its pictures from 0."""
    sizes = there.sum(1).tolist()
    grids, centres, numbers = (list(torch.split(part, sizes)) for part in places)
    images = [torch.unique(part, return_inverse=True)[1] for part in numbers]
    return Places(*(pad_sequence(part, batch_first=True).to(device) for part in (grids, centres, images)))


def _runs(positions: Tensor) -> list[int]:
    """Lengths of the runs of consecutive numbers in an ascending (N,) tensor."""
    ends = (positions.diff() != 1).nonzero()[:, 0] + 1
    bounds = [0, *ends.tolist(), len(positions)]
    return [after - before for before, after in itertools.pairwise(bounds)]


def squarest(tokens: int) -> tuple[int, int]:
    """Rows and columns, rows <= columns, nearest to a square.

    >>> squarest(12), squarest(7)
    ((3, 4), (1, 7))
    """
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows
