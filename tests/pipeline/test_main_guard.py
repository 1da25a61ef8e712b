"""A script is refused if, and only if, a spawned process would run the same place again.

The oracle is Python itself: the script starts a spawned process, and says each time that it
runs the place.
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
    "guarded, a function": (
        "from probe import probe\ndef main():\n    probe()\n"
        'if "__main__" == __name__:\n    main()\n'
    ),
    "guarded by leaving": (
        'from probe import probe\nif __name__ != "__main__":\n    raise SystemExit\nprobe()\n'
    ),
}
REFUSED = {*list(SCRIPTS)[:4]}


def run(directory: Path, *arguments: str) -> tuple[int, bool]:
    """Run Python; return how often the place ran, and whether it was refused."""
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
def test_a_script_is_refused_if_a_worker_would_run_it_again(kind: str, tmp_path: Path) -> None:
    (tmp_path / "calls_when_imported.py").write_text(SCRIPTS["top level"])
    (tmp_path / "script.py").write_text(SCRIPTS[kind])
    times, refused = run(tmp_path, "script.py")
    assert times == (2 if kind in REFUSED else 1)
    assert refused == (kind in REFUSED)


def test_a_module_that_runs_as_a_script_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPTS["top level"])
    assert run(tmp_path, "-m", "script") == (2, True)


@pytest.mark.parametrize("arguments", [("-c", SCRIPTS["top level"]), ("-m", "package"), (".",)])
def test_what_a_worker_does_not_run_needs_no_guard(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """A command of `-c`, and the `__main__.py` of a package or of a directory."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(SCRIPTS["top level"])
    (tmp_path / "__main__.py").write_text(SCRIPTS["top level"])
    assert run(tmp_path, *arguments) == (1, False)
