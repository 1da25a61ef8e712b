"""An ingest in a separate process: `python -m tests.storage.ingest_process URL SEED SIGNS`.

It claims the store, writes all shards except the last, and touches SIGNS/PID. Then it waits for
the file SIGNS/go, writes the last shard and finishes. It prints the fingerprint or the error.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.claims import Lease, claim_store
from storage.errors import DataError
from storage.ingest import finish, plan_ingest, prepare, read_back, write_shard
from storage.schema import Layout
from storage.synthetic import Synthetic

LEASE = Lease(refresh_seconds=0.1, expiry_seconds=1.0, settle_seconds=0.3)
LAYOUT = Layout(shard_rows=50, chunk_rows=10)


class CheckingFirst(LocalFileSystem):  # type: ignore[misc]
    """A file system shared by processes; `create` checks first, so two processes may succeed."""

    protocol = "checking"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix(f"{cls.protocol}://"))


class Exclusive(CheckingFirst):
    """A file system shared by processes, in which only one `create` succeeds, as on S3."""

    protocol = "exclusive"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        with self.open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)


for each in (CheckingFirst, Exclusive):
    fsspec.register_implementation(each.protocol, each, clobber=True)


def source(seed: int) -> Synthetic:
    """Return the source for a seed; all sources have the same shapes."""
    return Synthetic(train_rows=230, test_rows=40, seed=seed)


def ingest(url: str, seed: int, signs: Path) -> str:
    plan = plan_ingest(source(seed), url, LAYOUT)
    with claim_store(plan.location, LEASE, lambda line: print(line, flush=True)) as claim:
        plan = prepare(plan)
        summaries = [write_shard(plan, shard) for shard in plan.shards[:-1]]
        (signs / str(os.getpid())).touch()
        while not (signs / "go").exists():
            time.sleep(0.02)
        summaries += [write_shard(plan, shard) for shard in plan.shards[-1:]]
        stored = [read_back(plan, shard) for shard in plan.shards]
        claim.check()
        return finish(plan, summaries, stored).fingerprint


if __name__ == "__main__":
    try:
        print(ingest(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
    except DataError as error:
        print(error)
        sys.exit(2)
