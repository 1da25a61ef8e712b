"""The main guard: it refuses exactly the scripts that spawned processes would run again.

The oracle is Python itself: the script starts a spawned process, and prints a line each time that
`probe` runs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import multiprocessing, os
from pipeline.inputs.errors import PipelineError
from pipeline.cluster.main_guard import check_main_guard

def probe():
    print("here", flush=True)
    if "PROBED" not in os.environ:
        os.environ["PROBED"] = "yes"
        try:
            check_main_guard()
        except PipelineError:
            print("refused", flush=True)
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
        process.join()
"""

SCRIPTS = {
    "top level": "from probe import probe\nprobe()\n",
    "a function called at the top level": (
        "from probe import probe\ndef main():\n    probe()\nmain()\n"
    ),
    "an if about something else": (
        "import logging\nfrom probe import probe\nlogging.getLogger(__name__)\n"
        "if True:\n    probe()\n"
    ),
    "an import": "import calls_when_imported\n",
    "guarded": 'from probe import probe\nif __name__ == "__main__":\n    probe()\n',
    "guarded call of a function": (
        "from probe import probe\ndef main():\n    probe()\n"
        'if "__main__" == __name__:\n    main()\n'
    ),
    "guarded by an exit": (
        'from probe import probe\nif __name__ != "__main__":\n    raise SystemExit\nprobe()\n'
    ),
}
REFUSED = {*list(SCRIPTS)[:4]}


def run(directory: Path, *arguments: str) -> tuple[int, bool]:
    """Run Python. Return how many times `probe` ran, and whether the script was refused."""
    (directory / "probe.py").write_text(PROBE)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.count("here"), "refused" in done.stdout


@pytest.mark.parametrize("kind", SCRIPTS)
def test_script_is_refused_only_if_a_worker_would_run_it_again(kind: str, tmp_path: Path) -> None:
    (tmp_path / "calls_when_imported.py").write_text(SCRIPTS["top level"])
    (tmp_path / "script.py").write_text(SCRIPTS[kind])
    times, refused = run(tmp_path, "script.py")
    assert times == (2 if kind in REFUSED else 1)
    assert refused == (kind in REFUSED)


def test_module_run_as_a_script_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPTS["top level"])
    assert run(tmp_path, "-m", "script") == (2, True)


@pytest.mark.parametrize("arguments", [("-c", SCRIPTS["top level"]), ("-m", "package"), (".",)])
def test_code_that_workers_do_not_run_needs_no_guard(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """Run the code of `-c`, and the `__main__.py` of a package and of a directory."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(SCRIPTS["top level"])
    (tmp_path / "__main__.py").write_text(SCRIPTS["top level"])
    assert run(tmp_path, *arguments) == (1, False)
