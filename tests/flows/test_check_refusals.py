"""Invalid checks: one line on standard error, exit status 2, and no files left."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.runs.directory import RunDirectory
from tests.flows.conftest import Command, User
from tests.flows.test_refusals import late, left, refused

BLACK_BOX = ["--method", "black-box"]
DATA = ["--gradient", "data"]
MINIBATCH = ["--gradient", "minibatch"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--step", "0"], ["the step", "positive", "0.0"]),
        (["--reg", "1", "--step", "1e-30"], ["a difference step of 1e-30 is too small"]),
        (["--step", "-1"], ["the step", "positive", "-1.0"]),
        (["--step", "nan"], ["the step", "positive", "nan"]),
        (["--step", "inf"], ["the step", "positive", "inf"]),
        (["--step", "small"], ["--step", "small"]),
        (["--examples", "0"], ["examples", "at least 1", "'0'"]),
        (["--examples", "first:0"], ["examples", "at least 1", "'first:0'"]),
        (["--examples", "some"], ["examples", "first:N", "'some'"]),
        (["--examples", "601"], ["601 of 600 examples"]),
        (["--examples", "9999999"], ["9,999,999 of 600 examples", "take at most 600"]),
        (["--examples", "first:9999999"], ["9,999,999 of 600 examples", "take at most 600"]),
        (["--examples", "9" * 5000], ["examples"]),
        (["--coordinates", "0"], ["--coordinates", "0"]),
        (["--coordinates", "-3"], ["--coordinates", "-3"]),
        (["--coordinates", "few"], ["--coordinates", "few"]),
        (["--coordinates", "30731"], ["30,730 coordinates", "30,731"]),
        (["--coordinates", "999999"], ["30,730 coordinates", "999,999"]),
        (["--at", "nonsense"], ["no run 'nonsense'"]),
        (["--at", "check-1970"], ["no run 'check-1970'"]),
        (["--at", "normal"], ["normal:SCALE"]),
        (["--at", "normal:-1"], ["normal:-1"]),
        (["--at", "zeros:1"], ["zeros"]),
        (["--batch-size", "64"], ["--batch-size", "--gradient minibatch"]),
        ([*MINIBATCH, "--batch-size", "0"], ["--batch-size", "0"]),
        ([*MINIBATCH, "--batch-size", "601"], ["601", "600"]),
        ([*MINIBATCH, "--examples", "5"], ["mini-batch", "--batch-size"]),
        ([*DATA, *BLACK_BOX], ["with respect to the data", "structured"]),
        ([*DATA, "--reg", "1"], ["no gradient with respect to the data", "--reg"]),
        ([*DATA, "--dtype", "float32"], ["with respect to the data", "float64"]),
        ([*DATA, "--coordinates", "5"], ["all pixels", "--examples"]),
        (["--gradient", "nonsense"], ["--gradient", "nonsense", "minibatch"]),
        (["--method", "nonsense"], ["--method", "nonsense", "black-box"]),
        (["--scheme", "nonsense"], ["--scheme", "nonsense", "centred"]),
        (["--dtype", "float16"], ["--dtype", "float16", "float32"]),
        (["--plan"], ["--plan", "--method black-box"]),
        (["--reg", "-1"], ["regulariser", "-1"]),
        (["--reg", "nan"], ["regulariser", "nan"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**64)], ["seed"]),
        (["--workers", "0"], ["--workers"]),
        (["--resume", "x"], ["no run 'x'"]),
        (["--resume", "x", "--step", "1e-5"], ["--step", "resumed"]),
        (["--resume", "x", "--plan"], ["--plan", "resumed"]),
        (["--steps", "1e-3:1e-5"], ["--steps"]),  # an option of `hinge check-step`
        ([*BLACK_BOX, "--step", "1e-30"], ["a difference step of 1e-30 is too small", "larger"]),
        (
            [*BLACK_BOX, "--plan", "--step", "1e-30"],
            ["a difference step of 1e-30 is too small", "larger"],
        ),
        ([*BLACK_BOX, "--plan", "--examples", "601"], ["601 of 600 examples"]),
    ],
    ids=lambda given: " ".join(given)[:60],
)
def test_check_rejects_invalid_options_before_it_starts(
    hinge: Command,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = left(store)
    refused(hinge("check", "--store", store, *given), *words)
    assert left(tmp_path) == set()
    assert left(store) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--reg", "1", "--steps", "1e-3:1e-30"], ["a difference step of 1e-30 is too small"]),
        (["--steps", "1e-11:1e-3"], ["LARGEST:SMALLEST", "'1e-11:1e-3'"]),
        (["--steps", "x"], ["LARGEST:SMALLEST", "'x'"]),
        (["--steps", "1e-3:0"], ["LARGEST:SMALLEST", "'1e-3:0'"]),
        (["--steps", "1e308:1e-308"], ["positive numbers in falling order"]),
        (["--points-per-decade", "0"], ["points per decade", "at least 1", "0"]),
        (["--points-per-decade", "500"], ["4,001 steps", "too many", "200"]),
        (["--points-per-decade", str(10**15)], ["too many"]),
        (["--step", "0"], ["the step", "positive", "0.0"]),
        (["--examples", "601"], ["601 of 600 examples"]),
        (["--at", "nonsense"], ["no run 'nonsense'"]),
        (["--reg", "-1"], ["regulariser", "-1"]),
        (["--seed", str(2**64)], ["seed"]),
        (["--dtype", "float16"], ["--dtype", "float16", "float32"]),
        (["--resume", "x"], ["no run 'x'"]),
        (["--resume", "x", "--steps", "1e-3:1e-5"], ["--steps", "resumed"]),
        (["--resume", "x", "--step", "1e-5"], ["--step", "resumed"]),
        # options of `hinge check` that `hinge check-step` does not have
        (["--method", "black-box"], ["--method"]),
        (["--scheme", "forward"], ["--scheme"]),
        (["--coordinates", "5"], ["--coordinates"]),
        (["--gradient", "data"], ["--gradient"]),
        (["--batch-size", "5"], ["--batch-size"]),
        (["--plan"], ["--plan"]),
    ],
    ids=lambda given: " ".join(given)[:60],
)
def test_check_step_rejects_invalid_options_before_it_starts(
    hinge: Command,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = left(store)
    refused(hinge("check-step", "--store", store, *given), *words)
    assert left(tmp_path) == set()
    assert left(store) == before


@pytest.mark.parametrize(
    "command", [["check"], ["check", *BLACK_BOX], ["check-step"]], ids=" ".join
)
@pytest.mark.parametrize("store_of", ["nothing.zarr", None])
def test_check_rejects_a_missing_store(
    hinge: Command, tmp_path: Path, command: list[str], store_of: str | None
) -> None:
    if store_of is None:
        refused(hinge(*command), "--store", f"hinge {command[0]} --help")
    else:
        refused(hinge(*command, "--store", tmp_path / store_of), store_of, "ingest")
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("W", "words"),
    [
        (None, ["has no weights"]),
        (np.zeros((3, 3073)), ["(3, 3073)", "(10, 3073)"]),
        (np.full((10, 3073), math.nan), ["finite"]),
    ],
)
def test_check_rejects_unusable_weights_of_a_run(
    hinge: Command, store: Path, tmp_path: Path, W: Any, words: list[str]
) -> None:
    run = tmp_path / "runs" / "train-other"
    run.mkdir(parents=True)
    RunDirectory(run).write_document({"run": run.name, "command": "train", "status": "done"})
    if W is not None:
        np.save(run / "weights.npy", W)
    refused(hinge("check", "--store", store, "--at", run.name), "train-other", *words)
    assert left(run.parent) == {run.name}


@pytest.mark.parametrize("resumed", ["check", "check-step"])
@pytest.mark.parametrize("command", ["sweep", "check", "check --steps", "check-step"])
def test_check_does_not_resume_a_damaged_or_foreign_record(
    hinge: Command, store: Path, tmp_path: Path, command: str, resumed: str
) -> None:
    run = tmp_path / "runs" / "other"
    run.mkdir(parents=True)
    RunDirectory(run).write_document({"run": run.name, "command": command, "status": "running"})
    refused(hinge(resumed, "--store", store, "--resume", run.name), "other")
    assert left(run) == {"result.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--at", "normal:1e305"], "the loss near these weights is not finite"),
        (["--reg", "1e308", "--at", "normal:1e10"], "the loss near these weights is not finite"),
        ([*DATA, "--at", "normal:1e305"], "not finite"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_non_finite_loss_fails_with_one_line(
    user: User, hinge: Command, store: Path, tmp_path: Path, given: list[str], words: str
) -> None:
    finished = hinge("check", "--store", store, "--scheduler", user.scheduler, *given)
    late(finished, words)
    [path] = (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text())["status"] == "failed"
