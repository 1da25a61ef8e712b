"""Records of checks: JSON and typed values agree, old records open, and a run is planned once."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flows.check.flow import CHECK
from flows.check.inputs import journal_identity
from flows.check.results import CheckResult, VerdictCounts, WorstCoordinate
from flows.check.step_flow import CHECK_STEP
from flows.check.step_results import ByScheme, StepStudyResult
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import FinishedRecord, to_document
from flows.services.console import to_json
from pipeline.check.parameters import CheckMethod, GradientCheck
from pipeline.check.step_study import StepStudy
from pipeline.inputs.weights import InitialWeights
from tests.flows.conftest import Command, User

# CIFAR-10 records of version 0, before typed records. Each table is cut to two rows.

HEADER = """
  "status": "done", "seed": 0,
  "data": {"url": "c.zarr", "name": "cifar10", "source": "CIFAR-10, binary version",
    "fingerprint": "4e553a0ce32eebf263dcc689c7ddffcf6ac3642318a9729eb20c3baea9422b9f",
    "format_version": 1,
    "classes": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
      "truck"],
    "rows": {"train": 50000, "test": 10000}, "shards": {"train": 10, "test": 2},
    "shard_rows": 5000, "chunk_rows": 250},
  "cluster": {"workers": 2, "threads": 2},
  "versions": {"python": "3.11.7", "hinge": "0.1.0", "numpy": "2.4.6", "numba": "0.68.1",
    "dask": "2026.8.0", "distributed": "2026.8.0", "zarr": "3.1.6", "prefect": "3.8.8"},
  "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
  "started": "2026-11-26T18:24:05+00:00", "finished": "2026-11-26T18:24:44+00:00",
  "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
"""
PARAMETERS = """{
    "at": "normal:1e-3", "gradient": "full", "method": "structured", "scheme": "centred",
    "step": 1e-05, "coordinates": "all", "examples": "all", "batch_size": 256, "reg": 0.0,
    "reg_bias": false, "dtype": "float64", "seed": 0
  }"""
OLD_CHECK = f"""{{
  "run": "check-20261126-182405-42d87740", "command": "check", {HEADER}
  "parameters": {PARAMETERS},
  "coordinates": 30730, "examples": 50000,
  "verdicts": {{"pass": 28, "kink": 30702, "roundoff": 0, "wrong": 0}},
  "max_relative_error": 1.5283397196479351,
  "max_relative_error_after_kinks": 3.1200487619203896e-09,
  "max_error": 0.004645254224369566, "max_error_after_kinks": 3.2556041196230012e-12,
  "largest_roundoff_bound": 5.758224347225151e-11, "kink_crossings": 229022,
  "worst": [
    {{"class": "automobile", "channel": "bias", "row": null, "column": null, "verdict": "pass",
      "analytic": -0.03196, "numerical": -0.0319599999967444, "error": 3.2556041196230012e-12,
      "error_after_kinks": 3.2556041196230012e-12, "crossings": 0}},
    {{"class": "frog", "channel": "blue", "row": 4, "column": 0, "verdict": "kink",
      "analytic": 40.4041119232, "numerical": 40.40553500588467, "error": 0.0014230826846741707,
      "error_after_kinks": 1.0231815394945443e-12, "crossings": 5}}],
  "seconds": 24.406988680999916, "loss": 21.445739397918285,
  "timings": {{"loading": 11.894660215000044, "gradient": 2.5159336789999998,
    "differences": 21.887782881999897, "verdicts": 0.0032721200000196404,
    "seconds": 38.88557851199994}}
}}"""
OLD_STUDY = f"""{{
  "run": "check-steps-20261126-183541-decce348", "command": "check --steps", {HEADER}
  "parameters": {{"check": {PARAMETERS}, "steps": "1e-4:1e-6", "points_per_decade": 2}},
  "steps": [
    {{"step": 0.0001, "scheme": "centred", "error": 0.004069675330446173,
      "error_after_kinks": 1.8802861900972882e-14, "max_error": 0.016390676896278905,
      "crossings": 2668964, "truncation": 0.004118601460746498,
      "rounding": 8.210366229185107e-15, "rounding_bound": 6.118009997562107e-12}},
    {{"step": 0.0001, "scheme": "forward", "error": 0.032231302576288694,
      "error_after_kinks": 1.889613973974051e-14, "max_error": 0.0732250984737357,
      "crossings": 1334482, "truncation": 0.02884214223350963,
      "rounding": 8.210366229185107e-15, "rounding_bound": 1.2222609718930203e-11}}],
  "best_step": {{"centred": 1e-06, "forward": 1e-06}},
  "least_error": {{"centred": 0.00036776911924415263, "forward": 0.0006429555970388863}},
  "seconds": 14.920614366999871,
  "timings": {{"differences": 14.920614366999871, "seconds": 15.42004599300003}}
}}"""


def directory_with(path: Path, document: dict[str, Any]) -> RunDirectory:
    """Create a run directory that contains this record."""
    directory = RunDirectory(path / document["run"])
    directory.path.mkdir()
    directory.write_document(document)
    return directory


def written(record: FinishedRecord[Any, Any]) -> Any:
    """Return the contents of the record's file as JSON, without the summary, which is newer."""
    document = json.loads(to_json(to_document(record)))
    assert document.pop("summary") == record.in_words()
    return document


def test_check_record_of_version_0_opens(tmp_path: Path) -> None:
    document = json.loads(OLD_CHECK)
    record = CHECK.read(directory_with(tmp_path, document))
    assert isinstance(record, FinishedRecord)
    assert record.parameters == GradientCheck()
    result: CheckResult = record.result
    assert result.verdicts == VerdictCounts(pass_=28, kink=30702, roundoff=0, wrong=0)
    assert result.max_difference_to_structured is None
    bias, pixel = result.worst
    assert (bias.class_, bias.channel, bias.row, bias.column) == ("automobile", "bias", None, None)
    assert (pixel.class_, pixel.channel, pixel.row, pixel.column) == ("frog", "blue", 4, 0)
    assert (pixel.example, pixel.analytic, pixel.crossings) == (None, 40.4041119232, 5)
    assert (result.seconds, record.seconds) == (24.406988680999916, 38.88557851199994)
    assert written(record) == document | {"record_version": 0}


def test_step_study_record_of_version_0_opens_as_check_step(tmp_path: Path) -> None:
    document = json.loads(OLD_STUDY)
    directory = directory_with(tmp_path, document)
    record = CHECK_STEP.read(directory)
    assert isinstance(record, FinishedRecord)
    assert record.parameters == StepStudy(steps="1e-4:1e-6")
    result: StepStudyResult = record.result
    assert [(each.step, each.scheme) for each in result.steps] == [
        (1e-4, "centred"),
        (1e-4, "forward"),
    ]
    assert result.steps[1].crossings == 1334482
    assert result.best_step == ByScheme(centred=1e-6, forward=1e-6)
    expected = document | {"command": "check-step", "record_version": 0}
    assert written(record) == expected
    interrupted = directory_with(tmp_path, document | {"run": "other", "status": "interrupted"})
    assert not isinstance(CHECK_STEP.read(interrupted), FinishedRecord)


def test_non_finite_numbers_and_pixel_places_are_read_back(tmp_path: Path) -> None:
    finished = CHECK.read(directory_with(tmp_path, json.loads(OLD_CHECK)))
    assert isinstance(finished, FinishedRecord)
    worst = WorstCoordinate(
        example=7, channel="red", row=3, column=4, verdict="wrong", analytic=1.0,
        numerical=math.nan, error=math.inf, error_after_kinks=math.nan, crossings=0,
    )  # fmt: skip
    result = replace(
        finished.result, worst=(worst,), max_error=math.inf, max_difference_to_structured=0.25
    )
    directory = RunDirectory(tmp_path / finished.run)
    directory.write_document(to_document(replace(finished, result=result)))
    [entry] = directory.read_document()["worst"]
    assert list(entry) == [
        *("example", "channel", "row", "column", "verdict", "analytic", "numerical", "error"),
        *("error_after_kinks", "crossings"),
    ]
    assert (entry["numerical"], entry["error"]) == (None, None)
    read = CHECK.read(directory)
    assert isinstance(read, FinishedRecord)
    assert read.result.max_difference_to_structured == 0.25
    assert math.isnan(read.result.max_error)
    [back] = read.result.worst
    assert (back.class_, back.example, back.analytic) == (None, 7, 1.0)
    assert math.isnan(back.numerical)


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("check", ["--method", "black-box", "--coordinates", 3, "--examples", 5]),
        ("check-step", ["--steps", "1e-4:1e-5", "--points-per-decade", 1, "--examples", 5]),
    ],
)
def test_run_is_planned_once_and_draws_its_inputs_once(
    command: str,
    given: list[Any],
    user: User,
    hinge: Command,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = list[str]()

    def count(owner: Any, name: str) -> None:
        counted = getattr(owner, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return counted(*arguments, **options)

        monkeypatch.setattr(owner, name, counting)

    for owner, name in [
        (RunKind, "plan"),
        (InitialWeights, "weights"),
        (GradientCheck, "rows"),
        (GradientCheck, "coordinate_indices"),
    ]:
        count(owner, name)
    finished = hinge(command, "--store", store, "--scheduler", user.scheduler, "--json", *given)
    assert (finished.status, finished.result["status"]) == (0, "done")
    assert sorted(calls) == ["coordinate_indices", "plan", "rows", "weights"]


def test_journal_identity_is_the_same_as_in_earlier_versions() -> None:
    """Otherwise, journals of earlier versions could not be resumed."""
    check = GradientCheck(method=CheckMethod.BLACK_BOX, coordinates=40, examples="60", reg=3.0)

    class Fingerprint(NamedTuple):
        fingerprint: str

    dataset: Any = Fingerprint("4e553a0c")
    assert journal_identity(check, dataset, np.zeros((10, 3073))) == IDENTITY


IDENTITY = """{
  "check": {
    "at": "normal:1e-3",
    "gradient": "full",
    "method": "black-box",
    "scheme": "centred",
    "step": 1e-05,
    "coordinates": 40,
    "examples": "60",
    "batch_size": 256,
    "reg": 3.0,
    "reg_bias": false,
    "dtype": "float64",
    "seed": 0
  },
  "data": "4e553a0c",
  "weights": "fa22a3b073895ebc2d33a613455966f210bf6b7a5f4c3100bc8e99b33d28a3d1"
}"""
