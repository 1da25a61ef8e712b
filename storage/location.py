"""Where a store is: a path, or a URL of any file system that fsspec knows."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.core import split_protocol
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from storage.errors import DataError

_WITH_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Protocols whose URLs begin with a bucket or a container."""


@dataclass(frozen=True)
class Location:
    """The place of a store: an absolute path, or a URL such as ``s3://bucket/cifar10.zarr``.

    >>> Location.parse("file:///data/cifar10.zarr")
    Location(url='/data/cifar10.zarr', is_local=True)
    >>> Location.parse("memory://cifar10.zarr")
    Location(url='memory://cifar10.zarr', is_local=False)
    """

    url: str
    is_local: bool

    @classmethod
    def parse(cls, url: str) -> "Location":
        """Read what a person wrote; a relative path is taken from the working directory.

        Raises:
            DataError: the URL is empty or of a kind that is not installed.
        """
        protocol, path = split_protocol(url)
        if protocol in {None, "file", "local"}:
            if not path:
                raise DataError("the store's URL is empty; wanted a path or a URL such as s3://...")
            return cls(str(Path(path).expanduser().absolute()), is_local=True)
        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:
            raise DataError(f"cannot use the store {url}: {error}") from error
        return cls(url.rstrip("/"), is_local=False)

    @property
    def partial(self) -> "Location":
        """Where the store lies while it is being made.

        A path's is a hidden sibling, renamed when it is whole. An object store has no rename:
        there the store is made in place, and its fingerprint, written last, says it is whole.
        """
        if not self.is_local:
            return self
        path = Path(self.url)
        return Location(str(path.with_name(f".{path.name}.partial")), is_local=True)

    @property
    def is_bucket(self) -> bool:
        """Whether the URL names a whole bucket of an object store, and nothing in it."""
        protocol, _, path = self.url.partition("://")
        return protocol in _WITH_BUCKETS and "/" not in path

    @property
    def claim(self) -> "Location":
        """Where an ingest says that it is writing the store: a hidden sibling."""
        parent, name = self.url.rsplit("/", 1)
        return Location(f"{parent}/.{name}.claim", self.is_local)

    def store(self, *, read_only: bool) -> Store:
        """Open the place for Zarr."""
        if self.is_local:
            return LocalStore(self.url, read_only=read_only)
        return FsspecStore.from_url(self.url, read_only=read_only)

    def is_empty(self) -> bool:
        """Tell whether nothing is here: no file, no object, or a directory without entries."""
        if self.is_local:
            path = Path(self.url)
            return not path.exists() or (path.is_dir() and not any(path.iterdir()))
        system, path_there = self._system()
        return not system.exists(path_there) or system.find(path_there) == []

    def read_bytes(self) -> bytes | None:
        """Read the file or object here, or return None if there is none."""
        try:
            if self.is_local:
                return Path(self.url).read_bytes()
            system, path = self._system()
            return bytes(system.cat_file(path))
        except FileNotFoundError:
            return None

    def write_bytes(self, data: bytes) -> None:
        """Write the file or object here, in place of any."""
        if self.is_local:
            Path(self.url).write_bytes(data)
            return
        system, path = self._system()
        system.pipe_file(path, data)

    def create_object(self, data: bytes) -> bool:
        """Create the object here, or return False if there is one; not for a path.

        In memory and on S3, Google's and Azure's stores (s3fs, gcsfs and adlfs from 2024.12 on)
        one of several writers at once succeeds. Other file systems only look first.
        """
        system, path = self._system()
        try:
            system.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def child(self, key: str) -> "Location":
        """Return the place of `key`, a path below this one."""
        return Location(f"{self.url}/{key}", self.is_local)

    def remove(self) -> None:
        """Remove all that is here, which need not be anything."""
        if self.is_local:
            path = Path(self.url)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        system, root = self._system()
        if system.exists(root):
            # The root's metadata goes last. Without it, what a broken-off removal leaves would
            # not be recognised as an unfinished store.
            last = {root, f"{root}/zarr.json"}
            first = [file for file in system.find(root) if file not in last]
            if first:
                system.rm(first)
            system.rm(root, recursive=True)

    def _system(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system and the path there, with no listing left from earlier."""
        system, path = fsspec.url_to_fs(self.url)
        system.invalidate_cache()  # another process may have written since
        return system, path

    def __str__(self) -> str:
        return self.url
