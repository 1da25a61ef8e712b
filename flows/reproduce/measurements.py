"""The measurements of the experiments, for the comparison with the notes and for the report."""

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
"""The number of mini-batches over which losses are averaged."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The loss and gradient of some images, compared with those of many copies of each image."""

    unique: int
    """The number of different images."""
    copies: int
    """The number of copies of each image."""
    rows: int
    """The total number of copies."""
    loss: Loss
    """The loss over the unique images."""
    same_bits: bool
    """Whether the originals and the copies have bit-identical losses and gradients."""
    seconds_unique: float
    seconds_copied: float
    seconds: float
    """The duration of the whole experiment."""


class ImagesToDescend(NamedTuple):
    """The number of images read to reach the final loss of full-batch gradient descent."""

    full: int
    """By gradient descent over all images."""
    batches: int
    """By mini-batch gradient descent; 0 if it never reaches that loss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """The records of the experiments, and values from their tables."""

    experiments: Experiments
    duplicates: Duplicates
    random_losses: Floats
    """The losses of all trials of the random search."""
    descent_losses: Floats
    """The loss before each step of gradient descent, and after the last."""
    batch_losses: Floats
    """The loss of each mini-batch. The start and the step size are those of gradient descent."""
    rows: int
    """The number of training images."""
    batch_size: int

    @property
    def images_to_descend(self) -> ImagesToDescend:
        """The number of images that each of the two training runs reads to reach the same loss."""
        means = running_mean(self.batch_losses, WINDOW)[WINDOW - 1 :]
        [reached] = np.nonzero(means <= self.descent_losses[-1])
        batches = int(reached[0]) + WINDOW if len(reached) else 0
        steps = len(self.descent_losses) - 1
        return ImagesToDescend(steps * self.rows, batches * self.batch_size)

    @property
    def black_box_minutes(self) -> float:
        """The time the black-box method would take for all weights, in minutes."""
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
    """Read a column of numbers from a run's table (CSV).

    Raises ValueError if the table has no such column.
    """
    table = np.genfromtxt(path, delimiter=",", names=True)
    return np.atleast_1d(np.asarray(table[name], np.float64))
