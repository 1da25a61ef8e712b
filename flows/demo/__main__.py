"""`make demo`: ingest images, train two classifiers, and reproduce the lecture notes.

The demo runs the commands that a user would type. It uses CIFAR-10 if `$HINGE_CIFAR10` names a
copy, or if the download succeeds. Otherwise it uses synthetic images and prints a warning.
"""

import os
import shlex
import sys
from pathlib import Path

import pooch
from prefect.settings import get_current_settings

from flows.cli import run_command
from flows.serve.background import workbench_in_background
from storage.download import BINARY_MD5, BINARY_URL, download
from storage.errors import DataError

DIRECTORY = Path("demo")
"""The directory of the demo's stores and runs."""

_CONNECT_SECONDS = 10.0

_SYNTHETIC = """
****************************************************************************************
*  CIFAR-10 could not be downloaded (see above). The demo uses SYNTHETIC images of the
*  same shape instead. It shows that the pipeline works; the numbers have no other meaning.
*  To use CIFAR-10, give its directory or .tar.gz file: HINGE_CIFAR10=PATH make demo
****************************************************************************************
"""


def main() -> int:
    """Run the demo's commands, and return the exit status of the first one that fails, or 0."""
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
    # all commands share its server and its cluster
    with workbench_in_background(get_current_settings().home, DIRECTORY / "runs"):
        for command in commands:
            print(f"\n$ {command}", flush=True)
            status = run_command(shlex.split(command)[1:])
            if status:
                return status
    print(
        f"\nThe demo trained classifiers on {_name(source)} and evaluated them on separate test "
        f"images.\nTheir records, weights and figures are in {DIRECTORY / 'runs'}. The report "
        "named in the last\nline above shows every experiment. `.venv/bin/hinge --help` lists all "
        "commands.\nTo see the flow runs in a browser, run `.venv/bin/hinge serve`."
    )
    return 0


def _source() -> str:
    """Return the source to ingest: the user's, the downloaded archive, or synthetic images."""
    named = os.environ.get("HINGE_CIFAR10")
    if named:
        return named
    cache = Path(pooch.os_cache("hinge"))
    cache.mkdir(parents=True, exist_ok=True)
    print(f"HINGE_CIFAR10 is not set; downloading CIFAR-10 from {BINARY_URL}", flush=True)
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
