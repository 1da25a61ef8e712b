"""An ingest as a process of its own: `python -m tests.storage.ingesting URL SEED SIGNS`.

It touches SIGNS/PID when it holds the claim and has written a shard, then waits for SIGNS/go
before the last shard. It prints the fingerprint, or the line that refuses it.
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


class LookingFirst(LocalFileSystem):  # type: ignore[misc]
    """Objects that several processes see, created exclusively only as far as fsspec looks first."""

    protocol = "looking"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix(f"{cls.protocol}://"))


class Exclusive(LookingFirst):
    """The same, with creation that one of several processes succeeds in, as S3 has it."""

    protocol = "exclusive"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        with self.open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)


for each in (LookingFirst, Exclusive):
    fsspec.register_implementation(each.protocol, each, clobber=True)


def source(seed: int) -> Synthetic:
    """Return one of the sources, which have the same shapes."""
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
