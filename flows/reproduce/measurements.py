"""What the experiments measured: the numbers that are compared with the notes and shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.reproduce.experiments import Experiments, TrainingRuns
from flows.runs.record import Loss
from flows.style import running_mean

Floats = NDArray[np.float64]

WINDOW = 50
"""Mini-batches whose losses are averaged."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The gradient over some images, and over many copies of each."""

    unique: int
    """Images that differ."""
    copies: int
    """Of each image."""
    rows: int
    """All copies of all images."""
    loss: Loss
    """Of the unique images."""
    same_bits: bool
    """Whether both have the same loss and gradient, bit for bit."""
    seconds_unique: float
    seconds_copied: float
    seconds: float
    """Of the whole experiment."""


class ImagesToDescend(NamedTuple):
    """How many images gradient descent reads to reach its final loss."""

    full: int
    """With all images at every step."""
    batches: int
    """With mini-batches; 0 if they never reach that loss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """The records of the experiments, and what their tables hold."""

    experiments: Experiments
    duplicates: Duplicates
    random_losses: Floats
    """Of all trials of the random search."""
    descent_losses: Floats
    """The loss before each step of gradient descent, and after the last."""
    batch_losses: Floats
    """The loss of each mini-batch of the same descent."""
    rows: int
    """Training images."""
    batch_size: int

    @property
    def images_to_descend(self) -> ImagesToDescend:
        """How many images each of the two descents reads to reach the same loss."""
        means = running_mean(self.batch_losses, WINDOW)[WINDOW - 1 :]
        [reached] = np.nonzero(means <= self.descent_losses[-1])
        batches = int(reached[0]) + WINDOW if len(reached) else 0
        steps = len(self.descent_losses) - 1
        return ImagesToDescend(steps * self.rows, batches * self.batch_size)

    @property
    def black_box_minutes(self) -> float:
        """How long the black-box method would take for all weights."""
        few = self.experiments.numerical_gradient.record
        all_weights = self.experiments.gradient_check.record.result.coordinates
        return few.timings["black_box"] / few.result.coordinates * all_weights / 60


def read_measurements(
    experiments: Experiments, duplicates: Duplicates, training: TrainingRuns, rows: int
) -> Measurements:
    """Read the tables of the experiments' runs; `rows` is the number of training images."""
    descent = experiments.gradient_descent
    losses = read_column(descent.directory.path / "loss.csv", "loss")
    trials = experiments.random_search.directory.path / "trials.csv"
    batches = experiments.mini_batches.directory.path / "loss.csv"
    return Measurements(
        experiments=experiments,
        duplicates=duplicates,
        random_losses=read_column(trials, "loss"),
        descent_losses=np.append(losses, descent.record.result.loss),
        batch_losses=read_column(batches, "loss"),
        rows=rows,
        batch_size=training.mini_batches.batch_size,
    )


def read_column(path: Path, name: str) -> Floats:
    """Read a column of numbers from a run's table (CSV)."""
    table = np.genfromtxt(path, delimiter=",", names=True)
    return np.atleast_1d(np.asarray(table[name], np.float64))
