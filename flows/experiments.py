"""The experiments of the lecture notes: which flows they are, and with which parameters."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flows.check import check_flow
from flows.check_steps import check_steps_flow
from flows.landscape import landscape_flow
from flows.panels import Panels, panels_flow
from flows.search import search_local_flow, search_random_flow
from flows.step_sizes import step_sizes_flow
from flows.sweep import Sweep, sweep_flow
from flows.train import train_flow
from pipeline.check_parameters import CheckMethod, GradientCheck
from pipeline.grid import TrainingGrid
from pipeline.landscape import GRADIENT, Landscape
from pipeline.local_search import LocalSearch
from pipeline.parameters import Method, TrainingParameters
from pipeline.random_search import RandomSearch
from pipeline.step_study import StepStudy

BLACK_BOX_COORDINATES = 16
"""Weights whose loss is evaluated anew: some seconds of work."""


class Part(NamedTuple):
    """An experiment, which is a flow with its parameters."""

    name: str
    take: Callable[..., dict[str, Any]]
    parameters: Any
    typed: str
    """The command that takes it alone, after `hinge`, but for its store and seed."""


class Taken(NamedTuple):
    """A part that has been taken."""

    record: Mapping[str, Any]
    path: Path
    command: str
    """What a user would type for it."""
    before: bool
    """Whether it had come to its end before this process began."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return float(self.record["timings"]["seconds"])


def parts(seed: int) -> list[Part]:
    """Return the experiments, in the notes' order."""
    gd = TrainingParameters(steps=200, seed=seed)
    batches = TrainingParameters(Method.MINIBATCH, steps=1_000, seed=seed)
    regularised = TrainingParameters(
        Method.MINIBATCH, steps=3_000, reg=2.5e4, init="normal:1e-3", seed=seed
    )
    lbfgs = TrainingParameters(Method.LBFGS, steps=30, reg=1e3, seed=seed)
    line = Landscape(1, directions=GRADIENT, seed=seed)
    box = GradientCheck(method=CheckMethod.BLACK_BOX, coordinates=BLACK_BOX_COORDINATES, seed=seed)
    study = StepStudy(GradientCheck(seed=seed), "1e-3:1e-8", 1)
    return [
        Part("panels", panels_flow, Panels(seed=seed), "landscape --panels"),
        Part("line", landscape_flow, line, "landscape --dims 1 --directions gradient"),
        Part("random search", search_random_flow, RandomSearch(1_000, seed=seed),
             "search random --trials 1000"),
        Part("local search", search_local_flow, LocalSearch(1_000, seed=seed),
             "search local --trials 1000"),
        Part("numerical gradient", check_flow, box,
             f"check --method black-box --coordinates {BLACK_BOX_COORDINATES}"),
        Part("gradient check", check_flow, GradientCheck(seed=seed), "check"),
        Part("differences", check_steps_flow, study,
             "check --steps 1e-3:1e-8 --points-per-decade 1"),
        Part("sweep", sweep_flow, Sweep(seed=seed), "sweep"),
        Part("gradient descent", train_flow, gd, "train --method gd --steps 200"),
        Part("step sizes", step_sizes_flow, TrainingGrid(seed=seed), "sweep --train"),
        Part("mini-batches", train_flow, batches, "train --method minibatch --steps 1000"),
        Part("regularised", train_flow, regularised,
             "train --method minibatch --steps 3000 --reg 2.5e4 --init normal:1e-3"),
        Part("l-bfgs", train_flow, lbfgs, "train --method lbfgs --steps 30 --reg 1e3"),
    ]  # fmt: skip


def path_of(regularised: Taken, seed: int) -> Part:
    """Return the part that looks at the path of a run."""
    path = regularised.path
    beside = Path("..", *path.parts[-2:])  # from the part's own place, wherever all of it lies
    typed = f"landscape --path {shlex.quote(str(path))}"
    return Part("path", landscape_flow, Landscape(path=str(beside), seed=seed), typed)
