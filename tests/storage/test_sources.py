"""Sources opened by name."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import DataError
from storage.sources import open_source
from storage.synthetic import Synthetic

Write = Callable[..., Any]  # see conftest.py


@pytest.mark.parametrize(
    ("name", "rows"),
    [("synthetic", (50_000, 10_000)), ("synthetic:600", (600, 120))],
)
def test_synthetic_source_has_the_named_size_and_respects_the_limit(
    tmp_path: Path, name: str, rows: tuple[int, int]
) -> None:
    source = open_source(name, workdir=tmp_path)
    assert isinstance(source, Synthetic)
    assert (source.rows("train"), source.rows("test")) == rows
    limited = open_source(name, limit=110, workdir=tmp_path)
    assert (limited.rows("train"), limited.rows("test")) == (110, 110)
    assert limited.identity != source.identity
    np.testing.assert_array_equal(
        limited.read("train", 100, 110)[0], source.read("train", 100, 110)[0]
    )


@pytest.mark.slow
def test_archive_of_official_size_equals_its_directory(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    content = np.tile(np.arange(10, dtype=np.uint8), 3_073_000).tobytes()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / f"{name}.bin").write_bytes(content)
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    direct = open_source(str(tmp_path), limit=7, workdir=tmp_path / "work")
    packed = open_source(str(archive), limit=7, workdir=tmp_path / "work")
    assert packed.identity == direct.identity
    assert (packed.rows("train"), packed.rows("test")) == (7, 7)
    images, _ = packed.read("train", 0, 1)
    np.testing.assert_array_equal(images[0], np.frombuffer(content[1:3073], np.uint8))


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("synthetic:", None, "synthetic:: wanted a number of images, as in synthetic:1200000"),
        ("synthetic:1e6", None, "synthetic:1e6: wanted a number of images"),
        ("synthetic:-5", None, "synthetic:-5: wanted a number of images"),
        ("synthetic:0", None, "synthetic:0: wanted at least 1 training image"),
        ("synthetic", 0, "the limit must be at least 1 image, not 0"),
        ("nowhere", None, "nowhere: no such directory or file; wanted a directory or .tar.gz of"),
        ("", None, "no source named ''; wanted"),
    ],
)
def test_invalid_name_or_limit_raises_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_source(name, limit=limit, workdir=tmp_path / "work")
    assert list(tmp_path.iterdir()) == []
