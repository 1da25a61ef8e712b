"""Download from a local HTTP server that breaks connections, changes files and fails."""

import functools
import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from storage import download as official
from storage import sources
from storage.download import download
from storage.errors import DataError

CONTENT = bytes(range(256)) * 8000  # 2 MB
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "set.tar.gz"


@dataclass
class Script:
    """The behaviour of the server, and the requests that it received."""

    content: bytes = CONTENT
    tag: str | None = '"one"'
    ranges: bool = True
    status: int | None = None
    cut_at: list[int | None] = field(default_factory=list)
    """For each request in turn, the position in the file at which the connection breaks."""
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    """The headers Range and If-Range of each request."""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, script: Script, *arguments: object) -> None:
        self.script = script
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:  # http.server requires this name
        script = self.script
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        script.asked.append((wanted, condition))
        if script.status is not None:
            self.send_error(script.status)
            return
        start = self._start(wanted, condition)
        if start >= len(script.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(script.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(script.content) - start))
        if start:
            last = len(script.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        if script.tag is not None:
            self.send_header("ETag", script.tag)
        self.end_headers()
        stop = script.cut_at.pop(0) if script.cut_at else None
        self.wfile.write(script.content[start:stop])
        self.close_connection = True

    def _start(self, wanted: str | None, condition: str | None) -> int:
        if wanted is None or not self.script.ranges or condition not in {None, self.script.tag}:
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))


@dataclass
class Server:
    script: Script
    url: str


@pytest.fixture
def server() -> Iterator[Server]:
    script = Script()
    handler = functools.partial(Handler, script)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield Server(script, f"http://127.0.0.1:{http.server_port}/{NAME}")
        http.shutdown()
        thread.join()


def _files(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_file_is_downloaded_once_and_cached(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(server.url, MD5, tmp_path, lambda *counts: seen.append(counts))
    assert path.read_bytes() == CONTENT
    assert _files(tmp_path) == {NAME}
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert download(server.url, MD5, tmp_path) == path
    assert server.script.asked == [(None, None)]


def test_broken_connection_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.script.cut_at = [700_000, 1_500_000]
    seen: list[tuple[int, int | None]] = []
    path = download(server.url, MD5, tmp_path, lambda *counts: seen.append(counts))
    assert path.read_bytes() == CONTENT
    assert _files(tmp_path) == {NAME}
    starts = [0 if r is None else int(r[6:-1]) for r, _ in server.script.asked]
    assert len(starts) == 3
    assert starts == sorted(set(starts))
    assert [condition for _, condition in server.script.asked] == [None, '"one"', '"one"']
    assert {total for _, total in seen} == {len(CONTENT)}


def test_later_call_resumes_the_partial_file_of_an_earlier_call(
    server: Server, tmp_path: Path
) -> None:
    server.script.cut_at = [300_000, 600_000, 900_000, 1_200_000]
    with pytest.raises(DataError, match="Try again to resume the download, or name a"):
        download(server.url, MD5, tmp_path)
    left = (tmp_path / f"{NAME}.part").stat().st_size
    assert left > 0
    assert download(server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert server.script.asked[-1] == (f"bytes={left}-", '"one"')


def test_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.script.ranges = False
    server.script.cut_at = [700_000]
    assert download(server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert len(server.script.asked) == 2


@pytest.mark.parametrize("tag", ['W/"weak"', None])
def test_range_without_a_strong_etag_is_requested_without_if_range(
    server: Server, tmp_path: Path, tag: str | None
) -> None:
    server.script.tag = tag
    server.script.cut_at = [700_000]
    assert download(server.url, MD5, tmp_path).read_bytes() == CONTENT
    wanted, condition = server.script.asked[1]
    assert wanted is not None
    assert condition is None


def test_file_changed_on_the_server_is_downloaded_from_scratch(
    server: Server, tmp_path: Path
) -> None:
    server.script.content, server.script.tag = CONTENT[::-1], '"old"'
    server.script.cut_at = [700_000] * 4
    with pytest.raises(DataError):
        download(server.url, MD5, tmp_path)
    server.script.content, server.script.tag = CONTENT, '"new"'
    server.script.cut_at = []
    assert download(server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert server.script.asked[-1][1] == '"old"'


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_complete_part_is_kept_and_too_long_part_is_replaced(
    server: Server, tmp_path: Path, length: int
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes((CONTENT + b"extra")[:length])
    assert download(server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert len(server.script.asked) == (1 if length == len(CONTENT) else 2)
    assert _files(tmp_path) == {NAME}


def test_wrong_checksum_deletes_the_file(server: Server, tmp_path: Path) -> None:
    server.script.content = CONTENT[::-1]
    with pytest.raises(DataError) as caught:
        download(server.url, MD5, tmp_path)
    assert str(caught.value) == (
        f"{server.url} does not have the MD5 {MD5}; the file was deleted. "
        "Try again, or name a directory or a .tar.gz that contains CIFAR-10"
    )
    assert _files(tmp_path) == set()


@pytest.mark.parametrize(("status", "text"), [(404, "404 Client Error"), (503, "503 Server")])
def test_http_error_is_reported_in_one_line(
    server: Server, tmp_path: Path, status: int, text: str
) -> None:
    server.script.status = status
    with pytest.raises(DataError, match=f"cannot download {server.url}: {text}.*or name a") as e:
        download(server.url, MD5, tmp_path)
    assert "\n" not in str(e.value)
    assert len(server.script.asked) == 1
    assert _files(tmp_path) == set()


def test_missing_server_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{NAME}"
    with pytest.raises(DataError, match=f"cannot download {url}: .*or name a directory") as e:
        download(url, MD5, tmp_path, timeout=2)
    assert "\n" not in str(e.value)


def test_server_that_sends_nothing_times_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        with pytest.raises(DataError, match=f"cannot download {url}: .*timed out"):
            download(url, MD5, tmp_path, timeout=0.2)


def test_source_download_is_fetched_unpacked_and_checked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: Callable[..., Any]
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(binary(records=2).path, "cifar-10-batches-bin")
    server.script.content = packed.getvalue()
    monkeypatch.setattr(official, "BINARY_URL", server.url)
    monkeypatch.setattr(official, "BINARY_MD5", hashlib.md5(server.script.content).hexdigest())
    seen: list[int] = []
    with pytest.raises(DataError, match=r"data_batch_1.bin is truncated: 6146 bytes, wanted 30730"):
        sources.open_source(
            "download", workdir=tmp_path / "work", progress=lambda done, _: seen.append(done)
        )
    assert seen[-1] == len(server.script.content)
