"""Index arithmetic: compacting rows and gathering tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruners.layout import compact, gather_tokens


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=3), st.booleans())
def test_compact_lists_the_true_places_in_order(rows: list[list[bool]], left: bool) -> None:
    mask = torch.tensor(rows)
    width = int(mask.sum(1).max())
    index, valid = compact(mask, width, left)
    for row, places, there in zip(mask, index, valid, strict=True):
        true = row.nonzero()[:, 0]
        assert torch.equal(places[there], true)
        assert there.tolist() == sorted(there.tolist(), reverse=not left)
        # padding points at a true place too, where there is one
        assert not len(true) or row[places].all()


@pytest.mark.parametrize(
    ("shape", "trailing"), [((1, 6), 0), ((2, 6), 0), ((3, 2, 6), 0), ((1, 6, 4), 1), ((3, 2, 6, 4), 1)]
)
def test_gather_tokens_finds_batch_and_tokens(shape: tuple[int, ...], trailing: int) -> None:
    values = torch.arange(torch.Size(shape).numel()).reshape(shape)
    index = torch.tensor([[0, 2], [5, 1]])
    found, pair = gather_tokens(values, index, trailing), gather_tokens((values, values), index, trailing)
    samples = values.ndim - trailing - 2
    for sample in range(2):
        source = values.select(samples, min(sample, values.shape[samples] - 1))
        expected = source.index_select(samples, index[sample])
        assert torch.equal(found.select(samples, sample), expected)
    assert torch.equal(pair[1], found)
