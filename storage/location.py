"""Locations of stores: a path, or a URL of any file system that fsspec supports."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.core import split_protocol
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from storage.errors import DataError

_WITH_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Protocols whose URLs start with a bucket or a container."""


@dataclass(frozen=True)
class Location:
    """The location of a store: an absolute path or a URL such as ``s3://bucket/cifar10.zarr``.

    Examples:
        >>> Location.parse("file:///data/cifar10.zarr")
        Location(url='/data/cifar10.zarr', is_local=True)
        >>> Location.parse("memory://cifar10.zarr")
        Location(url='memory://cifar10.zarr', is_local=False)
    """

    url: str
    is_local: bool

    @classmethod
    def parse(cls, url: str) -> "Location":
        """Parse a path or URL; a relative path is relative to the working directory.

        Raises:
            DataError: The URL is empty, or the package for its protocol is not installed.
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
        """The location of the store while it is being written.

        For a path, this is a hidden sibling, which is renamed when the store is complete. Object
        stores cannot rename, so there the store is written in place. The fingerprint, which is
        written last, marks it as complete.
        """
        if not self.is_local:
            return self
        path = Path(self.url)
        return Location(str(path.with_name(f".{path.name}.partial")), is_local=True)

    @property
    def is_bucket(self) -> bool:
        """Whether the URL names a whole bucket of an object store instead of a store in it."""
        protocol, _, path = self.url.partition("://")
        return protocol in _WITH_BUCKETS and "/" not in path

    @property
    def claim(self) -> "Location":
        """The location of the claim on the store, a hidden sibling (see `storage.claims`)."""
        parent, name = self.url.rsplit("/", 1)
        return Location(f"{parent}/.{name}.claim", self.is_local)

    def store(self, *, read_only: bool) -> Store:
        """Open the location as a Zarr store."""
        if self.is_local:
            return LocalStore(self.url, read_only=read_only)
        return FsspecStore.from_url(self.url, read_only=read_only)

    def is_empty(self) -> bool:
        """Return whether nothing exists here except possibly an empty directory."""
        if self.is_local:
            path = Path(self.url)
            return not path.exists() or (path.is_dir() and not any(path.iterdir()))
        system, path_there = self._system()
        return not system.exists(path_there) or system.find(path_there) == []

    def read_bytes(self) -> bytes | None:
        """Return the content of the file or object here, or None if it does not exist."""
        try:
            if self.is_local:
                return Path(self.url).read_bytes()
            system, path = self._system()
            return bytes(system.cat_file(path))
        except FileNotFoundError:
            return None

    def write_bytes(self, data: bytes) -> None:
        """Write the file or object here, replacing an existing one."""
        if self.is_local:
            Path(self.url).write_bytes(data)
            return
        system, path = self._system()
        system.pipe_file(path, data)

    def create_object(self, data: bytes) -> bool:
        """Create the object here and return True, or return False if it exists.

        This is not available for local paths. If several writers call it at the same time, exactly
        one succeeds in memory and on S3, Google Cloud Storage and Azure (with s3fs, gcsfs and
        adlfs from 2024.12 on). Other file systems check first whether the object exists and then
        create it, so several writers may succeed.
        """
        system, path = self._system()
        try:
            system.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def child(self, key: str) -> "Location":
        """Return the location of `key`, a path below this one."""
        return Location(f"{self.url}/{key}", self.is_local)

    def remove(self) -> None:
        """Remove everything here; do nothing if nothing exists here."""
        if self.is_local:
            path = Path(self.url)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        system, root = self._system()
        if system.exists(root):
            # Remove the root's metadata last. Without it, the rest of an interrupted removal
            # would not be recognised as an unfinished store.
            last = {root, f"{root}/zarr.json"}
            first = [file for file in system.find(root) if file not in last]
            if first:
                system.rm(first)
            system.rm(root, recursive=True)

    def _system(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system and the path in it, without cached listings."""
        system, path = fsspec.url_to_fs(self.url)
        system.invalidate_cache()  # another process may have written since
        return system, path

    def __str__(self) -> str:
        return self.url
