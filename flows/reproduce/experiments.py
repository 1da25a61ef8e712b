"""The experiments of the lecture notes: their flows and parameters."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol

from flows.check.flow import CHECK, check_flow
from flows.check.results import CheckResult
from flows.check.step_flow import CHECK_STEP, check_step_flow
from flows.check.step_results import StepStudyResult
from flows.grid.flow import GRID, grid_flow
from flows.grid.results import GridResult
from flows.landscape.flow import LANDSCAPE, landscape_flow
from flows.landscape.panels_flow import PANELS, panels_flow
from flows.landscape.panels_results import PanelsResult
from flows.landscape.results import LandscapeResult
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import FinishedRecord, P, R
from flows.search.flow import LOCAL_SEARCH, RANDOM_SEARCH, search_local_flow, search_random_flow
from flows.search.results import LocalSearchResult, RandomSearchResult
from flows.sweep.flow import SWEEP, sweep_flow
from flows.sweep.results import SweepResult
from flows.train.flow import TRAIN, train_flow
from flows.train.results import TrainResult
from pipeline.check.parameters import CheckMethod, GradientCheck
from pipeline.check.step_study import StepStudy
from pipeline.landscape.parameters import GRADIENT, Landscape, Panels
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch
from pipeline.sweep.parameters import Sweep
from pipeline.training.grid import TrainingGrid
from pipeline.training.parameters import LBFGS, GradientDescent, MiniBatches, TrainingParameters

BLACK_BOX_COORDINATES = 16
"""The number of weights in the black-box check, which takes a few seconds."""


@dataclass(frozen=True)
class Experiment(Generic[P, R]):
    """An experiment of the notes: a flow and its parameters."""

    name: str
    kind: RunKind[P, R, Any]
    flow: Callable[..., FinishedRecord[P, R]]
    parameters: P
    arguments: str
    """The arguments of `hinge` that run it alone, without `--store` and `--seed`."""

    @property
    def directory_name(self) -> str:
        """The name of the directory that contains its run."""
        return self.name.replace(" ", "-")


@dataclass(frozen=True)
class FinishedExperiment(Generic[P, R]):
    """An experiment that has run."""

    name: str
    record: FinishedRecord[P, R]
    directory: RunDirectory
    command: str
    """The command that runs it alone."""
    finished_before: bool
    """Whether it had finished before this process started."""


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """All finished experiments, in the order of the notes."""

    panels: FinishedExperiment[Panels, PanelsResult]
    line: FinishedExperiment[Landscape, LandscapeResult]
    random_search: FinishedExperiment[RandomSearch, RandomSearchResult]
    local_search: FinishedExperiment[LocalSearch, LocalSearchResult]
    numerical_gradient: FinishedExperiment[GradientCheck, CheckResult]
    """With the black-box method, which evaluates the loss twice per weight."""
    gradient_check: FinishedExperiment[GradientCheck, CheckResult]
    differences: FinishedExperiment[StepStudy, StepStudyResult]
    """The error of a numerical gradient for several difference steps h."""
    sweep: FinishedExperiment[Sweep, SweepResult]
    gradient_descent: FinishedExperiment[TrainingParameters, TrainResult]
    step_sizes: FinishedExperiment[TrainingGrid, GridResult]
    mini_batches: FinishedExperiment[TrainingParameters, TrainResult]
    regularised: FinishedExperiment[TrainingParameters, TrainResult]
    lbfgs: FinishedExperiment[TrainingParameters, TrainResult]
    path: FinishedExperiment[Landscape, LandscapeResult]
    """The path of the regularised run."""

    def in_order(self) -> list[FinishedExperiment[Any, Any]]:
        """Return the experiments in the order of the notes."""
        return [getattr(self, field.name) for field in fields(self)]


class TrainingRuns(NamedTuple):
    """The parameters of the training runs."""

    gradient_descent: GradientDescent
    mini_batches: MiniBatches
    regularised: MiniBatches
    lbfgs: LBFGS


def training_runs(seed: int) -> TrainingRuns:
    """Return the parameters of the training runs."""
    return TrainingRuns(
        gradient_descent=GradientDescent(steps=200, seed=seed),
        mini_batches=MiniBatches(steps=1_000, seed=seed),
        regularised=MiniBatches(steps=3_000, reg=2.5e4, init="normal:1e-3", seed=seed),
        lbfgs=LBFGS(steps=30, reg=1e3, seed=seed),
    )


class RunExperiment(Protocol):
    """A function that runs an experiment."""

    def __call__(self, experiment: Experiment[P, R], /) -> FinishedExperiment[P, R]:
        """Run an experiment, or resume it."""
        ...


def run_experiments(run: RunExperiment, training: TrainingRuns, seed: int) -> Experiments:
    """Run all experiments, in the order of the notes."""
    line = Landscape(dims=1, directions=GRADIENT, seed=seed)
    random, local = RandomSearch(trials=1_000, seed=seed), LocalSearch(trials=1_000, seed=seed)
    few = BLACK_BOX_COORDINATES
    black_box = GradientCheck(method=CheckMethod.BLACK_BOX, coordinates=few, seed=seed)
    check, grid = GradientCheck(seed=seed), TrainingGrid(seed=seed)
    steps = StepStudy(check=check, steps="1e-3:1e-8", points_per_decade=1)
    return Experiments(
        panels=run(Experiment("panels", PANELS, panels_flow, Panels(seed=seed), "panels")),
        line=run(Experiment("line", LANDSCAPE, landscape_flow, line,
                            "landscape --dims 1 --directions gradient")),
        random_search=run(Experiment("random search", RANDOM_SEARCH, search_random_flow, random,
                                     "search random --trials 1000")),
        local_search=run(Experiment("local search", LOCAL_SEARCH, search_local_flow, local,
                                    "search local --trials 1000")),
        numerical_gradient=run(Experiment("numerical gradient", CHECK, check_flow, black_box,
                                          f"check --method black-box --coordinates {few}")),
        gradient_check=run(Experiment("gradient check", CHECK, check_flow, check, "check")),
        differences=run(Experiment("differences", CHECK_STEP, check_step_flow, steps,
                                   "check-step --steps 1e-3:1e-8 --points-per-decade 1")),
        sweep=run(Experiment("sweep", SWEEP, sweep_flow, Sweep(seed=seed), "sweep")),
        gradient_descent=run(_train("gradient descent", training.gradient_descent,
                                    "--method gd --steps 200")),
        step_sizes=run(Experiment("step sizes", GRID, grid_flow, grid, "grid")),
        mini_batches=run(_train("mini-batches", training.mini_batches,
                                "--method minibatch --steps 1000")),
        regularised=(regularised := run(_train(
            "regularised", training.regularised,
            "--method minibatch --steps 3000 --reg 2.5e4 --init normal:1e-3"))),
        lbfgs=run(_train("l-bfgs", training.lbfgs, "--method lbfgs --steps 30 --reg 1e3")),
        path=run(_path_of(regularised.directory.path, seed)),
    )  # fmt: skip


def _train(
    name: str, parameters: TrainingParameters, options: str
) -> Experiment[TrainingParameters, TrainResult]:
    return Experiment(name, TRAIN, train_flow, parameters, f"train {options}")


def _path_of(run: Path, seed: int) -> Experiment[Landscape, LandscapeResult]:
    """Return the experiment that draws the path of a training run."""
    # The directory of the training run is given relative to `parts/path`, which contains the run of
    # this experiment, so that the reproduction can be moved to another directory.
    relative = Path("..", *run.parts[-2:])
    parameters = Landscape(path=str(relative), seed=seed)
    arguments = f"landscape --path {shlex.quote(str(run))}"
    return Experiment("path", LANDSCAPE, landscape_flow, parameters, arguments)
