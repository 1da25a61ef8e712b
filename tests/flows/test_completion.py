"""Shell completion: the script, and the answers to what a shell asks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from flows.cli import hinge, run_command
from tests.environment import clean_environment
from tests.flows.conftest import HINGE


def completed(*words: str) -> set[str]:
    """Return the completions of the last word of a command line."""
    shell = ShellComplete(hinge, {}, "hinge", "_HINGE_COMPLETE")
    items = shell.get_completions([*words[:-1]], words[-1])
    return {item.value if item.type == "plain" else f"<{item.type}>" for item in items}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of runs, in the working directory."""
    for name in ("sweep-1", "train-1", "train-2", "search-random-1", "search-local-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "result.json").touch()
    (tmp_path / "runs" / "train-unfinished").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_commands_options_and_choices_are_completed() -> None:
    assert completed("sw") == {"sweep"}
    assert completed("train", "--met") == {"--method"}
    assert completed("train", "--method", "l") == {"lbfgs"}
    assert completed("completion", "z") == {"zsh"}
    assert completed("runs", "--status", "in") == {"in progress", "interrupted"}


def test_resume_is_completed_with_the_runs_of_the_command(runs: Path) -> None:
    assert completed("train", "--resume", "") == {"train-1", "train-2", "<dir>"}
    assert completed("search", "random", "--resume", "s") == {"search-random-1", "<dir>"}
    elsewhere = runs.rename(runs.parent / "elsewhere")
    assert completed("train", "--resume", "") == {"<dir>"}
    assert completed("sweep", "--runs", str(elsewhere), "--resume", "") == {"sweep-1", "<dir>"}


@pytest.mark.usefixtures("runs")
def test_other_runs_and_stores_are_completed() -> None:
    assert completed("show", "search-l") == {"search-local-1", "<dir>"}
    assert completed("sweep", "--at", "train-") == {"train-1", "train-2", "<dir>"}
    assert completed("train", "--store", "") == {"<dir>"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_names_the_command(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["completion", shell]) == 0
    assert "_HINGE_COMPLETE" in capfd.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_run(runs: Path) -> None:
    """The script works in a real shell, through the installed command."""
    script = (
        'eval "$(hinge completion bash)"; COMP_WORDS=(hinge train --resume train-); COMP_CWORD=3; '
        '_hinge_completion hinge; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = os.pathsep.join([str(HINGE.parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=runs.parent,
        env=clean_environment(runs.parent, PATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert {*done.stdout.split()} >= {"train-1", "train-2"}


def test_completion_imports_nothing_heavy(runs: Path) -> None:
    code = (
        "import sys; from click.shell_completion import ShellComplete\n"
        "from flows.cli import hinge\n"
        "ShellComplete(hinge, {}, 'hinge', '').get_completions(['train', '--resume'], '')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*done.stdout.split()} & {"numpy", "prefect", "distributed", "rich", "zarr"}
