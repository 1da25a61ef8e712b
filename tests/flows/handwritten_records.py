"""Handwritten records of the experiments of a reproduction, for tests that do not run them.

Each record is a JSON object as in `result.json`, and is read in the same way as a run's record.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.check.flow import CHECK
from flows.check.step_flow import CHECK_STEP
from flows.grid.flow import GRID
from flows.landscape.flow import LANDSCAPE
from flows.landscape.panels_flow import PANELS
from flows.reproduce.experiments import Experiments, FinishedExperiment
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import FinishedRecord
from flows.search.flow import LOCAL_SEARCH, RANDOM_SEARCH
from flows.sweep.flow import SWEEP
from flows.train.flow import TRAIN
from pipeline.check.parameters import GradientCheck
from pipeline.check.step_study import StepStudy
from pipeline.landscape.parameters import Landscape, Panels
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch
from pipeline.sweep.parameters import Sweep
from pipeline.training.grid import TrainingGrid
from pipeline.training.parameters import LBFGS, GradientDescent, MiniBatches

KINDS: dict[str, RunKind[Any, Any, Any]] = {
    "panels": PANELS,
    "line": LANDSCAPE,
    "random search": RANDOM_SEARCH,
    "local search": LOCAL_SEARCH,
    "numerical gradient": CHECK,
    "gradient check": CHECK,
    "differences": CHECK_STEP,
    "sweep": SWEEP,
    "gradient descent": TRAIN,
    "step sizes": GRID,
    "mini-batches": TRAIN,
    "regularised": TRAIN,
    "l-bfgs": TRAIN,
    "path": LANDSCAPE,
}
PARAMETERS = {
    "panels": Panels(),
    "line": Landscape(dims=1, directions="gradient"),
    "random search": RandomSearch(),
    "local search": LocalSearch(),
    "numerical gradient": GradientCheck(coordinates=16),
    "gradient check": GradientCheck(),
    "differences": StepStudy(),
    "sweep": Sweep(),
    "gradient descent": GradientDescent(),
    "step sizes": TrainingGrid(),
    "mini-batches": MiniBatches(),
    "regularised": MiniBatches(),
    "l-bfgs": LBFGS(),
    "path": Landscape(path="../regularised/train-1"),
}
AXIS = {"label": "at random", "low": -1.0, "high": 1.0, "length": 0.17}
SLICE = {
    "examples": 50_000,
    "points": 101,
    "minimum": 1.5,
    "maximum": 35.5,
    "values": "landscape.npz",
    "seconds": 1.25,
    "weights_sha256": "7ba0",
}
LINE = SLICE | {
    "axes": [AXIS],
    "minimum_at": [0.25],
    "breakpoints": 6,
    "kinks": [{"a": -0.5, "hinge_loss": 0.0, "slope_after": 3.5}],
    "slope_at_ends": [-2.0, 28.5],
    "slopes_rise": True,
    "max_difference": 1.5e-16,
    "exact_minimum": {"a": -1.0, "hinge_loss": 0.0},
}
PLANE = SLICE | {"axes": [AXIS, AXIS], "minimum_at": [0.25, -0.5], "middle": 2.5}
SEARCH = {
    "trials": 1_000,
    "best_trial": 45,
    "best_loss": 8.5,
    "loss": 8.5,
    "test_loss": 8.75,
    "train_accuracy": 0.13,
    "test_accuracy": 0.125,
    "weights_sha256": "a161",
    "trials_per_second": 49.5,
}
CHECKED = {
    "coordinates": 30_730,
    "examples": 50_000,
    "verdicts": {"pass": 28, "kink": 30_702, "roundoff": 0, "wrong": 0},
    "max_relative_error": 1.5,
    "max_relative_error_after_kinks": 3.1e-9,
    "max_error": 4.6e-3,
    "max_error_after_kinks": 3.3e-12,
    "largest_roundoff_bound": 5.8e-11,
    "kink_crossings": 229_022,
    "worst": [],
    "weights_sha256": "7ba0",
    "seconds": 24.5,
    "loss": 21.5,
}
STEP_ERROR = {
    "step": 1e-5,
    "scheme": "centred",
    "error": 4.1e-3,
    "error_after_kinks": 1.9e-14,
    "max_error": 1.6e-2,
    "crossings": 2_668_964,
    "truncation": 4.2e-3,
    "rounding": 8.2e-15,
    "rounding_bound": 6.1e-12,
}
TRAINED = {
    "steps": 200,
    "loss": 4.75,
    "test_loss": 4.875,
    "train_accuracy": 0.38,
    "test_accuracy": 0.37,
    "weights_sha256": "086c",
    "steps_per_second": 20.5,
}
TRIAL = {
    "step_size": 1e-7,
    "batch_size": 256,
    "reg": 0.0,
    "status": "done",
    "steps": 500,
    "loss": 9.5,
    "test_loss": 9.75,
    "train_accuracy": 0.25,
    "test_accuracy": 0.24,
    "weights_sha256": "a4fb",
}
RESULTS: dict[str, dict[str, Any]] = {
    "panels": {
        "line": LINE,
        "planes": {"one example": PLANE, "100 examples": PLANE, "all examples": PLANE},
        "values": "panels.npz",
        "weights_sha256": "7ba0",
        "seconds": 2.5,
    },
    "line": LINE,
    "random search": SEARCH,
    "local search": SEARCH | {"accepted": 42, "initial_loss": 21.5},
    "numerical gradient": CHECKED | {"coordinates": 16, "max_difference_to_structured": 1e-12},
    "gradient check": CHECKED,
    "differences": {
        "steps": [STEP_ERROR],
        "best_step": {"centred": 1e-6, "forward": 1e-6},
        "least_error": {"centred": 3.7e-4, "forward": 6.4e-4},
        "weights_sha256": "7ba0",
        "seconds": 14.5,
    },
    "sweep": {
        "initial_loss": 11.25,
        "losses": [],
        "best_step_size": 1e-6,
        "best_loss": 8.125,
        "weights_sha256": "46f8",
        "exact_minimum": {"step_size": 8.2e-7, "loss": 8.0625, "breakpoints": 309_484},
    },
    "gradient descent": TRAINED,
    "step sizes": {"trials": [TRIAL], "best": TRIAL},
    "mini-batches": TRAINED,
    "regularised": TRAINED,
    "l-bfgs": TRAINED | {"passes": 31},
    "path": PLANE
    | {"path": {"run": "train-1", "looks": 101, "explained": [0.5, 0.25], "reg": 2.5e4}},
}
HEADER = {
    "record_version": 1,
    "status": "done",
    "started": "2026-01-01T00:00:00+00:00",
    "versions": {"python": "3.11.7"},
    "machine": {"system": "Linux", "processor": "abacus", "cores": 2},
}


def documents(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the JSON object of every experiment's record, with `changes` applied."""
    made = {
        name: HEADER
        | {
            "run": f"run-of-{name}",
            "command": kind.command,
            "parameters": asdict(PARAMETERS[name]),
            "timings": {"seconds": 12.34},
        }
        | RESULTS[name]
        for name, kind in KINDS.items()
    }
    made = copy.deepcopy(made)
    for name, changed in changes.items():
        change(made[name], changed)
    return made


def change(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change values of a document in place; nested objects keep their other values."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(document.get(name), dict):
            change(document[name], value)
        else:
            document[name] = copy.deepcopy(value)


def experiments(
    of: Mapping[str, Mapping[str, Any]],
    directory: Path = Path(),
    commands: Mapping[str, str] | None = None,
) -> Experiments:
    """Read the records, and return the experiments as if they had run in `directory`."""
    commands = commands or {}
    finished = {
        name.replace(" ", "_").replace("mini-", "mini_").replace("-", ""): FinishedExperiment(
            name=name,
            record=read_record(name, json.dumps(of[name])),
            directory=RunDirectory(directory / name.replace(" ", "-") / of[name]["run"]),
            command=commands.get(name, "hinge something --store s.zarr"),
            finished_before=False,
        )
        for name in KINDS
    }
    return Experiments(**finished)


@lru_cache(maxsize=1_000)
def read_record(experiment: str, text: str) -> FinishedRecord[Any, Any]:
    """Read a record from its JSON text."""
    with TemporaryDirectory() as directory:
        Path(directory, "result.json").write_text(text)
        record = KINDS[experiment].read(RunDirectory(Path(directory)))
    assert isinstance(record, FinishedRecord)
    return record
