"""Flows called from a user's script."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.conftest import Finished, User

UNGUARDED = """
import sys
from flows.sweep.flow import sweep_flow
sweep_flow(sys.argv[1], **eval(sys.argv[2]))
"""

GUARDED = """
import sys
from flows.sweep.flow import sweep_flow

def main():
    sweep_flow(sys.argv[1], **eval(sys.argv[2]))

if __name__ == "__main__":
    main()
"""


def run_script(
    text: str, store: Path, options: dict[str, object], directory: Path, environment: dict[str, str]
) -> Finished:
    script = directory / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script, store, repr(options)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_script_without_a_guard_gets_an_error_with_the_guard_to_add(tmp_path: Path) -> None:
    """It fails before anything starts: there is no server, and the store does not exist."""
    home = tmp_path / "home"
    home.mkdir()
    environment = User(home, "", "").environment()
    run = run_script(UNGUARDED, tmp_path / "none.zarr", {"workers": 2}, tmp_path, environment)
    assert (run.status, run.out) == (1, "")
    assert f"PipelineError: line 4 of {tmp_path / 'script.py'} starts worker processes" in run.err
    assert run.err.endswith('with\n\n    if __name__ == "__main__":\n        main()\n\n')
    assert len(run.err.splitlines()) < 15
    assert "site-packages" not in run.err
    assert not [*home.rglob("*.db")]


@pytest.mark.slow
def test_script_with_a_guard_runs(user: User, store: Path, tmp_path: Path) -> None:
    environment = user.environment(PREFECT_API_URL=user.api)
    run = run_script(GUARDED, store, {"workers": 1}, tmp_path, environment)
    assert run.status == 0, run.err
    assert [*tmp_path.glob("runs/*/result.json")]


@pytest.mark.slow
def test_script_that_starts_no_workers_needs_no_guard(
    user: User, store: Path, tmp_path: Path
) -> None:
    environment = user.environment(PREFECT_API_URL=user.api)
    run = run_script(UNGUARDED, store, {"scheduler": user.scheduler}, tmp_path, environment)
    assert run.status == 0, run.err
    assert [*tmp_path.glob("runs/*/result.json")]
