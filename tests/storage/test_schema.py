"""Layouts of rows in shards and chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import DataError
from storage.schema import Layout

sizes = st.integers(1, 20_000)


@given(sizes, sizes, sizes)
def test_shards_are_whole_chunks_and_cover_every_row_once(
    shard_rows: int, chunk_rows: int, rows: int
) -> None:
    layout = Layout(shard_rows, chunk_rows)
    assert layout.shard_rows == shard_rows
    fitted = layout.fit(rows)
    assert fitted.shard_rows % fitted.chunk_rows == 0
    assert fitted.fit(rows) == fitted
    assert [row for shard in fitted.shards(rows) for row in shard] == list(range(rows))
    assert fitted.shard_rows < rows + fitted.chunk_rows  # less than one chunk of padding


@given(sizes, sizes)
def test_chunk_size_is_the_nearest_divisor_by_ratio(shard_rows: int, wanted: int) -> None:
    divisors = [d for d in range(1, shard_rows + 1) if shard_rows % d == 0]
    best = min(max(d / wanted, wanted / d) for d in divisors)
    chosen = Layout(shard_rows, wanted).chunk_rows
    assert max(chosen / wanted, wanted / chosen) == best


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"shard_rows": 0}, "shard_rows must be a whole number of at least 1, not 0"),
        ({"chunk_rows": -5}, "chunk_rows must be a whole number of at least 1, not -5"),
    ],
)
def test_size_below_1_raises_data_error(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Layout(**sizes)
