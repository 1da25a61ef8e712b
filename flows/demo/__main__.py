"""`make demo`: from nothing to a trained classifier, with the commands that a user would type.

The data is the real CIFAR-10 if `$HINGE_CIFAR10` names it or it can be downloaded. Otherwise it is
the synthetic set, and a banner says so.
"""

import os
import shlex
import sys
from pathlib import Path

import pooch

from flows.cli import run_command
from flows.services.prefect_server import prefect_server
from storage.download import BINARY_MD5, BINARY_URL, download
from storage.errors import DataError

DIRECTORY = Path("demo")
"""Where the demo keeps its stores and runs."""

_CONNECT_SECONDS = 10.0

_SYNTHETIC = """
****************************************************************************************
*  These are NOT the CIFAR-10 images, which could not be downloaded (see above).
*  What follows is trained on SYNTHETIC images of the same shapes: it shows that the
*  pipeline works, and its numbers mean nothing else. For the real ones, name a directory
*  or .tar.gz of CIFAR-10: HINGE_CIFAR10=... make demo
****************************************************************************************
"""


def main() -> int:
    """Ingest, show the store, train in two ways, and reproduce the notes; return the status."""
    source = _source()
    store = DIRECTORY / ("synthetic.zarr" if source == "synthetic" else "cifar10.zarr")
    on_it = f"--store {store} --runs {DIRECTORY / 'runs'}"
    commands = (
        f"hinge ingest {shlex.quote(source)} {on_it}",
        f"hinge info {on_it}",
        f"hinge train {on_it} --method gd --steps 200 --step-size 1e-7",
        f"hinge train {on_it} --method minibatch --steps 3000 --batch-size 256 "
        "--step-size 1e-7 --reg 2.5e4 --init normal:1e-3",
        f"hinge reproduce {on_it}",
    )
    with prefect_server():  # one server for all commands
        for command in commands:
            print(f"\n$ {command}", flush=True)
            status = run_command(shlex.split(command)[1:])
            if status:
                return status
    print(
        f"\nClassifiers were trained on {_name(source)} and tested on images they had not "
        f"seen.\nTheir records, weights and figures are in {DIRECTORY / 'runs'}, and the page "
        "that the last\nline above names shows every experiment; `.venv/bin/hinge --help` lists "
        "all commands.\n"
        "The flow runs are kept too: `.venv/bin/prefect server start` shows them in a browser."
    )
    return 0


def _source() -> str:
    """Return the data to ingest: the user's, else downloaded images, else synthetic ones."""
    named = os.environ.get("HINGE_CIFAR10")
    if named:
        return named
    cache = Path(pooch.os_cache("hinge"))
    cache.mkdir(parents=True, exist_ok=True)
    print(f"Looking for CIFAR-10: $HINGE_CIFAR10 is not set, trying {BINARY_URL}", flush=True)
    try:
        return str(download(BINARY_URL, BINARY_MD5, cache, timeout=_CONNECT_SECONDS))
    except DataError as error:
        print(error, file=sys.stderr)
        print(_SYNTHETIC, flush=True)
        return "synthetic"


def _name(source: str) -> str:
    return "SYNTHETIC images" if source == "synthetic" else f"CIFAR-10 ({source})"


if __name__ == "__main__":
    sys.exit(main())
