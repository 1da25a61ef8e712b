"""Download of the data set from its official page, with checksum, cache and resume.

Pooch manages the cache and checks the MD5. Pooch's own transfer cannot resume, so this module
adds one that keeps a partial file from which the next attempt resumes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import IO

import pooch
import requests

from storage.errors import DataError

BINARY_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
PYTHON_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
PYTHON_MD5 = "c58f30108f718f92721af3b95e74349a"

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and the total (None if not known)."""

_BLOCK_BYTES = 2**18
_ATTEMPTS = 4  # per call; each attempt resumes where the previous one stopped


def download(
    url: str,
    md5: str,
    cache: Path,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Download the file at `url` to `cache`, unless it is already there, and return its path.

    An interrupted transfer leaves a `.part` file in `cache`. The next attempt, in this call or a
    later one, resumes from it, unless the file on the server has changed by then. `timeout` is
    the longest time without data from the server, in seconds.

    Raises:
        DataError: The server cannot be reached or returns an error, or the file's MD5 is not
            `md5` (the file is then deleted).
    """
    part = cache / f"{Path(url).name}.part"

    def transfer(_url: str, destination: str, _pooch: object) -> None:
        _fetch(url, part, progress, timeout)
        part.replace(destination)
        _tag_of(part).unlink(missing_ok=True)

    try:
        found = pooch.retrieve(url, f"md5:{md5}", part.stem, path=cache, downloader=transfer)
    except requests.RequestException as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"cannot download {url}: {reason}. Try again to resume the download, "
            "or name a directory or a .tar.gz that contains CIFAR-10"
        ) from error
    except ValueError as error:  # raised by Pooch for a wrong checksum
        raise DataError(
            f"{url} does not have the MD5 {md5}; the file was deleted. "
            "Try again, or name a directory or a .tar.gz that contains CIFAR-10"
        ) from error
    return Path(found)


def _fetch(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Download all of `url` to `part`; resume after a broken connection."""
    for attempt in range(_ATTEMPTS):
        try:
            _transfer(url, part, progress, timeout)
        except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError) as error:
            before_it_began = not part.exists() or isinstance(error, requests.ConnectTimeout)
            if before_it_began or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _transfer(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Request the rest of `part` once and append it; replace `part` if the server sends all."""
    headers = {"Accept-Encoding": "identity", **_resume_headers(part)}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            _settle(url, part, progress, timeout, response.headers.get("Content-Range"))
            return
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        _tag_of(part).write_text(response.headers.get("ETag", ""))
        with part.open("ab" if resumed else "wb") as file:
            _append(file, response, progress)


def _settle(
    url: str, part: Path, progress: Progress | None, timeout: float, extent: str | None
) -> None:
    """Keep `part` if it is complete; otherwise delete it and download the file again."""
    if extent != f"bytes */{part.stat().st_size}":
        part.unlink()
        _transfer(url, part, progress, timeout)


def _append(file: IO[bytes], response: requests.Response, progress: Progress | None) -> None:
    done = file.tell()
    length = response.headers.get("Content-Length")
    total = done + int(length) if length is not None else None
    for block in response.iter_content(_BLOCK_BYTES):
        file.write(block)
        done += len(block)
        if progress is not None:
            progress(done, total)


def _resume_headers(part: Path) -> dict[str, str]:
    """Return headers that request the rest of `part`, or the whole file if it has changed."""
    if not part.exists() or not part.stat().st_size:
        return {}
    headers = {"Range": f"bytes={part.stat().st_size}-"}
    tag = _tag_of(part).read_text() if _tag_of(part).exists() else ""
    if tag and not tag.startswith("W/"):  # a weak tag does not guarantee identical bytes
        headers["If-Range"] = tag
    return headers


def _tag_of(part: Path) -> Path:
    """Return the path of the file beside `part` that stores the ETag of its content."""
    return part.with_name(f"{part.name}.etag")
