"""Unpacking of valid, damaged and malicious archives."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.archive import unpack
from storage.cifar10 import open_directory
from storage.errors import DataError

Write = Callable[..., Any]  # see conftest.py


def _pack(path: Path, *members: tarfile.TarInfo, content: bytes = b"content") -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for member in members:
            data = content if member.isreg() else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "outer" / "work"


@pytest.mark.parametrize("version", ["binary", "python"])
def test_unpacked_archive_has_the_packed_files_and_is_reused(
    version: str, request: pytest.FixtureRequest, tmp_path: Path, workdir: Path
) -> None:
    official = request.getfixturevalue(version)("cifar-10-batches")
    folder = {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}[version]
    archive = tmp_path / "cifar-10.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(official.path, folder)
    unpacked = unpack(archive, workdir)
    source = open_directory(unpacked, records=20)
    assert source.identity == open_directory(official.path, records=20).identity
    assert unpack(archive, workdir) == unpacked
    assert list(workdir.iterdir()) == [unpacked]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        # paths outside the destination
        (_member("../../x"), r"member '../../x' would be written outside the destination"),
        (_member("a/../../x"), r"member 'a/../../x' would be written outside"),
        (_member("/x"), "member '/x' would be written outside"),
        # a symbolic link, a hard link, a device and a pipe
        (_member("x", tarfile.SYMTYPE, "/etc/passwd"), "member 'x' is neither a plain file nor"),
        (_member("x", tarfile.LNKTYPE, "good"), "member 'x' is neither a plain file nor"),
        (_member("x", tarfile.CHRTYPE), "member 'x' is neither a plain file nor a directory"),
        (_member("x", tarfile.FIFOTYPE), "member 'x' is neither a plain file nor a directory"),
    ],
)
def test_unsafe_member_is_named_and_leaves_no_files(
    tmp_path: Path, workdir: Path, member: tarfile.TarInfo, message: str
) -> None:
    archive = _pack(tmp_path / "a.tar.gz", _member("good"), member)
    with pytest.raises(DataError, match=f"a.tar.gz: {message}.*; nothing was unpacked"):
        unpack(archive, workdir)
    assert sorted(tmp_path.rglob("*")) == sorted([archive, workdir.parent, workdir])


def _names_left(workdir: Path) -> list[Path]:
    return list(workdir.rglob("*")) if workdir.exists() else []


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.99, 0.9999])
def test_truncated_archive_raises_data_error(tmp_path: Path, workdir: Path, kept: float) -> None:
    noise = bytes(range(256)) * 400
    whole = _pack(tmp_path / "a.tar.gz", _member("good"), content=noise).read_bytes()
    archive = tmp_path / "b.tar.gz"
    archive.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"b.tar.gz is not a valid .tar.gz"):
        unpack(archive, workdir)
    assert _names_left(workdir) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not gzip at all", id="not gzip"),
        pytest.param(gzip.compress(b"not a tar" * 200), id="gzip of something else"),
    ],
)
def test_file_that_is_not_a_tar_gz_raises_data_error(
    tmp_path: Path, workdir: Path, content: bytes
) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a.tar.gz is not a valid .tar.gz"):
        unpack(archive, workdir)
    assert _names_left(workdir) == []


def test_wrong_gzip_checksum_raises_data_error(tmp_path: Path, workdir: Path) -> None:
    archive = _pack(tmp_path / "a.tar.gz", _member("good"))
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1  # a bit of gzip's CRC, which follows the end of the tar
    archive.write_bytes(content)
    with pytest.raises(DataError, match="CRC check failed"):
        unpack(archive, workdir)
    assert _names_left(workdir) == []


def test_unpacked_size_is_limited(tmp_path: Path, workdir: Path) -> None:
    archive = _pack(tmp_path / "bomb.tar.gz", _member("zeros"), content=bytes(2**22))
    assert archive.stat().st_size < 2**16
    with pytest.raises(DataError, match=r"bomb.tar.gz: unpacks to more than 1048576 bytes"):
        unpack(archive, workdir, max_bytes=2**20)
    assert _names_left(workdir) == []


def test_number_of_members_is_limited(tmp_path: Path, workdir: Path) -> None:
    archive = _pack(tmp_path / "a.tar.gz", *(_member(f"{i}") for i in range(101)), content=b"")
    with pytest.raises(DataError, match="more than 100 members; CIFAR-10's archives have nine"):
        unpack(archive, workdir)
    assert _names_left(workdir) == []
