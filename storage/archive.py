"""Unpacking of an untrusted `.tar.gz` archive.

Only plain files and directories inside the destination are created. A bad archive leaves no files
behind. The unpacked size is limited, so that no archive can fill the disk.
"""

import gzip
import hashlib
import io
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from storage.errors import DataError

MAX_BYTES = 512 * 2**20
"""Largest accepted unpacked size; the official archives unpack to 178 MiB."""

MAX_MEMBERS = 100
"""Largest accepted number of files and directories; the official archives have nine."""

_BLOCK_BYTES = 2**20


def unpack(archive: Path, workdir: Path, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack `archive` under `workdir` and return the new directory.

    The directory's name contains the first 16 digits of the archive's SHA-256. The directory
    appears only when it is complete. A second call returns the existing directory.

    Raises:
        DataError: The archive is damaged or too large, a member is neither a plain file nor a
            directory, or a member's name is outside the destination. No files are left behind.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    done = workdir / f"{archive.name.split('.')[0]}-{digest[:16]}"
    if done.is_dir():
        return done
    workdir.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f".{done.name}-", dir=workdir))
    try:
        _unpack_into(archive, begun, max_bytes)
        _publish(begun, done)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return done


def _publish(begun: Path, done: Path) -> None:
    try:
        begun.rename(done)
    except OSError:
        if not done.is_dir():  # else another process has unpacked the same archive
            raise


def _unpack_into(archive: Path, destination: Path, max_bytes: int) -> None:
    try:
        with gzip.open(archive) as unzipped:
            bounded = _Bounded(unzipped, max_bytes)
            with tarfile.open(fileobj=bounded, mode="r|") as tar:
                for number, member in enumerate(tar):
                    if number >= MAX_MEMBERS:
                        raise DataError(
                            f"more than {MAX_MEMBERS} members; CIFAR-10's archives have nine"
                        )
                    _check_member(member)
                    tar.extract(member, destination, filter="data")
            while bounded.read(_BLOCK_BYTES):  # read to the end, to check gzip's checksum
                pass
    except DataError as error:
        raise DataError(f"{archive}: {error}; nothing was unpacked") from None
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: {error}; nothing was unpacked") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{archive} is not a valid .tar.gz ({error}); download it again") from error


def _check_member(member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"member {member.name!r} would be written outside the destination")
    if not member.isdir() and (not member.isreg() or member.issparse()):
        raise DataError(f"member {member.name!r} is neither a plain file nor a directory")


class _Bounded(io.RawIOBase):
    """A stream that raises DataError after more than `limit` bytes."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        data = self._stream.read(wanted)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"unpacks to more than {self._limit} bytes")
        return data
