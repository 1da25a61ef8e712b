"""Reading of finished stores, and detection of damage in them."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cifar10 import Cifar10
from storage.dataset import Dataset, open_dataset
from storage.errors import DataError
from storage.ingest import finish, plan_ingest, prepare, read_back, write_shard
from storage.schema import CLASSES, Layout
from storage.sources import Source, open_source
from storage.synthetic import Synthetic

SOURCE = Synthetic(train_rows=230, test_rows=40)
TRAIN_IMAGES, TRAIN_LABELS = SOURCE.read("train", 0, 230)


def ingest(source: Source, url: str, layout: Layout) -> Dataset:
    plan = plan_ingest(source, url, layout)
    prepare(plan)
    summaries = [write_shard(plan, shard) for shard in plan.shards]
    return finish(plan, summaries, [read_back(plan, shard) for shard in plan.shards])


LAYOUTS = [
    Layout(50, 10),
    Layout(53, 53),  # one chunk per shard
    Layout(7, 1),  # one row per chunk
    Layout(1000, 100),  # one shard, longer than the split
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    place = tmp_path_factory.mktemp("stores")
    return [ingest(SOURCE, str(place / f"{i}.zarr"), each) for i, each in enumerate(LAYOUTS)]


@pytest.fixture
def dataset(datasets: list[Dataset], tmp_path: Path) -> Dataset:
    """A copy of the first store, for tests to damage: 5 training shards of 5 chunks of 10 rows."""
    return open_dataset(str(shutil.copytree(datasets[0].url, tmp_path / "copy.zarr")))


layouts = st.integers(0, len(LAYOUTS) - 1)
row = st.integers(0, 229)


@settings(max_examples=40, deadline=None)
@given(layouts, st.tuples(st.integers(0, 230), st.integers(0, 230)).map(sorted))
def test_read_range_equals_slice_of_the_source(
    datasets: list[Dataset], layout: int, bounds: list[int]
) -> None:
    start, stop = bounds
    images, labels = datasets[layout].read("train", start, stop)
    assert images.dtype == labels.dtype == np.dtype("u1")
    np.testing.assert_array_equal(images, TRAIN_IMAGES[start:stop])
    np.testing.assert_array_equal(labels, TRAIN_LABELS[start:stop])


@settings(max_examples=40, deadline=None)
@given(layouts, st.lists(row, max_size=60))
def test_read_rows_equals_indexing_of_the_source(
    datasets: list[Dataset], layout: int, rows: list[int]
) -> None:
    images, labels = datasets[layout].read_rows("train", rows)
    wanted = np.array(rows, int)
    np.testing.assert_array_equal(images, TRAIN_IMAGES[wanted])
    np.testing.assert_array_equal(labels, TRAIN_LABELS[wanted])


@pytest.mark.parametrize("bounds", [(-1, 5), (5, 4), (0, 231)])
def test_invalid_range_raises_index_error(datasets: list[Dataset], bounds: tuple[int, int]) -> None:
    with pytest.raises(
        IndexError, match=f"rows {bounds[0]} to {bounds[1]} requested from a split of"
    ):
        datasets[0].read("train", *bounds)


@pytest.mark.parametrize("rows", [[3, 230], [-1]])
def test_rows_outside_the_split_raise_index_error(datasets: list[Dataset], rows: list[int]) -> None:
    with pytest.raises(IndexError, match="requested from a split of 230 rows"):
        datasets[0].read_rows("train", rows)


@pytest.mark.parametrize("rows", [[1.5], [True, False], [[1, 2]]])
def test_rows_that_are_not_a_list_of_integers_raise_index_error(
    datasets: list[Dataset], rows: list[Any]
) -> None:
    with pytest.raises(IndexError, match="rows must be a list of integers"):
        datasets[0].read_rows("train", rows)


def test_read_rows_reads_only_the_chunks_of_these_rows(dataset: Dataset) -> None:
    _flip(_shard(dataset, 1), 3 * 30_724)  # in the fourth of five chunks: rows 80 to 89
    rows = [*range(50, 80), *range(90, 100), 229]
    images, _ = dataset.read_rows("train", rows)
    np.testing.assert_array_equal(images, TRAIN_IMAGES[rows])
    images, _ = dataset.read("train", 50, 80)
    np.testing.assert_array_equal(images, TRAIN_IMAGES[50:80])


def test_dataset_can_be_pickled_compared_and_hashed(datasets: list[Dataset]) -> None:
    first = datasets[0]
    sent = pickle.loads(pickle.dumps(first))
    assert sent == first
    assert hash(sent) == hash(first)
    np.testing.assert_array_equal(sent.mean, first.mean)
    np.testing.assert_array_equal(sent.read("test", 3, 9)[0], first.read("test", 3, 9)[0])
    assert first != datasets[1]
    with pytest.raises(ValueError, match="read-only"):
        first.mean[0] = 1


def test_relative_path_becomes_absolute(
    datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(datasets[0].url).parent)
    assert open_dataset("0.zarr") == datasets[0]


def test_summary_can_be_written_as_json(datasets: list[Dataset]) -> None:
    first = datasets[0]
    assert json.loads(json.dumps(asdict(first.summary()))) == {
        "url": first.url,
        "name": "synthetic",
        "source": "synthetic images (seed 0), not CIFAR-10",
        "fingerprint": first.fingerprint,
        "format_version": 1,
        "classes": list(CLASSES),
        "rows": {"train": 230, "test": 40},
        "shards": {"train": 5, "test": 1},
        "shard_rows": 50,
        "chunk_rows": 10,
    }
    assert first.summary().in_words() == f"{SOURCE.description}, 230 + 40 images"


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(LAYOUTS)))
def test_xarray_dask_and_zarr_read_the_store(datasets: list[Dataset], index: int) -> None:
    url = datasets[index].url
    images = TRAIN_IMAGES.reshape(-1, 3, 32, 32)
    group = xarray.open_zarr(url, group="train")
    assert group.images.dims == ("image", "channel", "height", "width")
    assert group.images.dtype == np.uint8
    np.testing.assert_array_equal(group.images, images)
    np.testing.assert_array_equal(group.labels, TRAIN_LABELS)
    np.testing.assert_allclose(group["mean"], images.mean(axis=0), rtol=1e-14)
    tree = xarray.open_datatree(url, engine="zarr")
    assert set(tree.children) == {"train", "test"}
    assert tree.attrs["fingerprint"] == datasets[index].fingerprint
    lazy = dask.array.from_zarr(url, component="train/images")
    np.testing.assert_array_equal(lazy[20:120].compute(), images[20:120])
    plain: Any = zarr.open_group(url, mode="r")
    np.testing.assert_array_equal(plain["test/labels"][:], SOURCE.read("test", 0, 40)[1])


def test_arrays_have_the_documented_shapes_chunks_and_codecs(dataset: Dataset) -> None:
    arrays = {
        path.parent.relative_to(dataset.url).as_posix(): json.loads(path.read_text())
        for path in Path(dataset.url).rglob("zarr.json")
    }
    assert {name for name, each in arrays.items() if each["node_type"] == "array"} == {
        "train/images", "train/labels", "train/mean", "test/images", "test/labels",
    }  # fmt: skip
    images = arrays["train/images"]
    assert (images["shape"], images["data_type"]) == ([230, 3, 32, 32], "uint8")
    assert images["chunk_grid"]["configuration"]["chunk_shape"] == [50, 3, 32, 32]
    (sharding,) = images["codecs"]
    assert sharding["configuration"]["chunk_shape"] == [10, 3, 32, 32]
    names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert names == ["bytes", "crc32c"]
    for name in ("train/labels", "train/mean"):
        assert [codec["name"] for codec in arrays[name]["codecs"]] == ["bytes", "crc32c"]


def _shard(dataset: Dataset, number: int) -> Path:
    return Path(dataset.url) / f"train/images/c/{number}/0/0/0"


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def _cut(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


AGAIN = "remove the store and ingest it again"


@pytest.mark.parametrize("chunk", range(5))
@pytest.mark.parametrize("rows", [range(100, 150), range(230)])
def test_flipped_byte_raises_data_error_that_names_its_chunk(
    dataset: Dataset, chunk: int, rows: range
) -> None:
    _flip(_shard(dataset, 2), chunk * 30_724 + 17)
    first = 100 + 10 * chunk
    with pytest.raises(DataError) as caught:
        dataset.read("train", rows.start, rows.stop)
    assert str(caught.value) == (
        f"{dataset.url}: inner chunk {chunk} (rows {first} to {first + 9}) of the shard "
        f"train/images/c/2/0/0/0 fails its checksum; {AGAIN}"
    )
    with pytest.raises(DataError, match=rf"inner chunk {chunk} \(rows {first} to {first + 9}\)"):
        dataset.read_rows("train", [first + 4, 0])


def test_flipped_byte_anywhere_in_a_shard_raises_data_error(dataset: Dataset) -> None:
    """The flipped bytes include checksums, the index and the padding of the last chunk."""
    shard = _shard(dataset, 4)
    whole = shard.read_bytes()
    places = [*range(0, len(whole), 4099), *range(len(whole) - 84, len(whole), 5)]
    for position in places:
        _flip(shard, position)
        with pytest.raises(DataError, match="train/images/c/4/0/0/0"):
            dataset.read("train", 200, 230)
        shard.write_bytes(whole)
    dataset.read("train", 200, 230)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "train/images/c/2/0/0/0 (rows 100 to 149) is missing"),
        (
            _cut(0),
            "train/images/c/2/0/0/0 (rows 100 to 149) is truncated",
        ),
        (
            _cut(9),
            "train/images/c/2/0/0/0 (rows 100 to 149) is truncated",
        ),
        (
            _cut(99_999),
            "the shard train/images/c/2/0/0/0 (rows 100 to 149) is truncated or its index "
            "fails its checksum",
        ),
        (
            lambda path: _flip(path, -50),
            "the shard train/images/c/2/0/0/0 (rows 100 to 149) is truncated or its index "
            "fails its checksum",
        ),
    ],
    ids=["missing", "empty", "9 bytes", "half", "index"],
)
def test_missing_or_truncated_shard_is_never_read_as_zeros(
    dataset: Dataset, damage: Any, message: str
) -> None:
    damage(_shard(dataset, 2))
    reads: list[Callable[[], object]] = [
        lambda: dataset.read("train", 120, 121),
        lambda: dataset.read("train", 0, 230),
        lambda: dataset.read_rows("train", [3, 140]),
    ]
    for read in reads:
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value) == f"{dataset.url}: {message}; {AGAIN}"
    dataset.read("train", 0, 100)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("train/labels/c/1", "train/labels/c/1 (rows 50 to 99)"),
        ("train/mean/c/0/0/0", "train/mean/c/0/0/0 (channels 0 to 2)"),
    ],
)
def test_damaged_labels_and_mean_raise_data_error(dataset: Dataset, path: str, what: str) -> None:
    file = Path(dataset.url) / path

    def use() -> None:
        open_dataset(dataset.url).labels("train")

    use()
    _flip(file, 11)
    with pytest.raises(DataError) as caught:
        use()
    assert str(caught.value) == f"{dataset.url}: {what} fails its checksum; {AGAIN}"
    file.unlink()
    with pytest.raises(DataError) as caught:
        use()
    assert str(caught.value) == f"{dataset.url}: {what} is missing; {AGAIN}"


def _change_attributes(dataset: Dataset, **changes: object) -> None:
    path = Path(dataset.url) / "zarr.json"
    root = json.loads(path.read_text())
    root["attributes"].update(changes)
    path.write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format_version": 2},
            "has format version 2, but this program reads only versions up to 1; upgrade",
        ),
        ({"format_version": "1"}, "is a Zarr group, but not a store created by `hinge ingest`"),
        ({"classes": None}, "is a Zarr group, but not a store created by `hinge ingest`"),
        ({"layout": {"shard_rows": 0, "chunk_rows": 1}}, "shard_rows must be a whole number"),
        ({"layout": {"shard_rows": 25, "chunk_rows": 5}}, "the train arrays have .*, wanted"),
        ({"fingerprint": None}, "is not finished; run its ingest again to resume it"),
    ],
)
def test_store_with_wrong_attributes_raises_data_error(
    dataset: Dataset, changes: dict[str, object], message: str
) -> None:
    _change_attributes(dataset, **changes)
    with pytest.raises(DataError, match=message):
        open_dataset(dataset.url)


def test_missing_array_raises_data_error(dataset: Dataset) -> None:
    shutil.rmtree(Path(dataset.url) / "test" / "labels")
    with pytest.raises(DataError, match=f"cannot open test/labels; {AGAIN}"):
        open_dataset(dataset.url)


def test_missing_store_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"no store at {tmp_path}/x.zarr; create it with `hinge ingest`"
    ):
        open_dataset(str(tmp_path / "x.zarr"))


@pytest.mark.slow
@pytest.mark.real
def test_real_images_are_stored_exactly(real_cifar10: Path, tmp_path: Path) -> None:
    source = open_source(str(real_cifar10), workdir=tmp_path / "work")
    assert isinstance(source, Cifar10)
    dataset = ingest(source, str(tmp_path / "cifar10.zarr"), Layout())
    assert dataset.fingerprint == (
        "4e553a0ce32eebf263dcc689c7ddffcf6ac3642318a9729eb20c3baea9422b9f"
    )
    assert np.bincount(dataset.labels("train")).tolist() == [5000] * 10
    assert np.bincount(dataset.labels("test")).tolist() == [1000] * 10
    images, labels = dataset.read("train", 0, 50_000)
    exact = images.sum(axis=0, dtype=np.int64) / 50_000
    assert np.array_equal(dataset.mean, exact)
    if source.version == "binary":
        files = [source.directory / f"data_batch_{i}.bin" for i in range(1, 6)]
        records = np.concatenate([np.fromfile(file, np.uint8) for file in files])
        assert np.array_equal(images, records.reshape(-1, 3073)[:, 1:])
        assert np.array_equal(labels, records.reshape(-1, 3073)[:, 0])
