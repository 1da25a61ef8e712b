"""The journal of a minimiser's evaluations, from which a killed run resumes.

SciPy does not expose the state of a minimiser, so the state cannot be stored. But a minimiser
depends only on the values that it gets: given the recorded values, it asks for the same points
again. This replay takes milliseconds. After it the run continues as if it had not been interrupted.

This works only if every point is bit-identical, so only on the same machine. Another processor or
another version of SciPy may round differently. Then the rest of the journal does not fit, and the
run continues on a new path from the best point so far.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal

Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)


class Value(NamedTuple):
    """The result of an evaluation."""

    loss: float
    """The value of the function that is minimised."""
    gradient: Floats
    """Its gradient with respect to V (C, D + 1)."""
    hinge_loss: float
    """The true loss: the mean hinge loss plus the regulariser."""
    lower_bound: float = -math.inf
    """A lower bound on the least `hinge_loss` of all weights; -inf if none is known."""
    smoothed_lower_bound: float = -math.inf
    """A lower bound on the least `loss` of all weights."""

    @property
    def optimisation_part(self) -> float:
        """The part of `hinge_loss - lower_bound` that further minimising can remove."""
        return self.loss - self.smoothed_lower_bound

    @property
    def smoothing_part(self) -> float:
        """The part of `hinge_loss - lower_bound` that only less smoothing can remove."""
        return self.hinge_loss - self.lower_bound - self.optimisation_part


class Entry(NamedTuple):
    """An evaluation as stored in the journal."""

    path: int
    """How many paths were abandoned before this one."""
    iteration: int
    """How many iterations were finished before the evaluation."""
    V: Floats
    """The point (C, D + 1), in the minimiser's own coordinates."""
    mu: float
    """The width of the smoothing; 0 for none."""
    value: Value

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Entry":
        """Return the entry whose `to_arrays` returned these arrays."""
        floats = {name: float(arrays[name]) for name in Value._fields if name != "gradient"}
        value = Value(gradient=arrays["gradient"], **floats)
        path, iteration = int(arrays["path"]), int(arrays["iteration"])
        return cls(path, iteration, arrays["V"], float(arrays["mu"]), value)

    def to_arrays(self) -> dict[str, Any]:
        """Return the entry as named arrays."""
        where = {"path": self.path, "iteration": self.iteration, "V": self.V, "mu": self.mu}
        return where | self.value._asdict()


def entries(journal: Journal, run: str) -> Iterator[Entry]:
    """Yield the evaluations in a run's journal.

    Raises PipelineError if the journal is damaged or belongs to another run.
    """
    for arrays in journal:
        if str(arrays.get("run")) != run:
            raise PipelineError("the run's journal belongs to another run; start a new run")
        yield Entry.from_arrays(arrays)


class OffTheRecordError(Exception):
    """The minimiser asked for a point that is not the next one in the journal."""


class DivergedError(Exception):
    """A loss is not finite."""


Evaluate = Callable[[Floats, float], Value]
"""`evaluate(V, mu)` is a pass over the data; mu is the width of the smoothing, 0 for none."""


class Evaluations:
    """All evaluations of a run: first those in its journal, then new ones.

    `run` identifies the run: it contains everything that decides the run. `report` is called after
    each evaluation.

    Raises PipelineError if the journal is damaged or belongs to another run.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        journal: Journal,
        run: str,
        report: Callable[["Evaluations"], None] = lambda _evaluations: None,
    ) -> None:
        self._evaluate, self._journal, self._run, self._report = evaluate, journal, run, report
        self._recorded = entries(journal, run)
        self._path = 0
        self._next = next(self._recorded, None)
        self.iteration = 0
        """How many iterations are finished; the minimiser's callback counts them."""
        self.best: Entry | None = None
        """The evaluation with the lowest hinge loss."""
        self.lower_bound = -math.inf
        """The highest lower bound so far."""
        self.losses: list[float] = []
        """The hinge loss of each evaluation."""
        self.lower_bounds: list[float] = []
        """The highest lower bound after each evaluation."""
        self.replayed = 0
        """How many evaluations were taken from the journal."""
        self.resumed_at = 0
        """How many iterations were finished at the last evaluation taken from the journal."""

    def __call__(self, V: Floats, mu: float = 0.0) -> Value:
        """Evaluate at V.

        Raises OffTheRecordError if the next point in the journal is not V and mu. The caller must
        then call `start_new_path`. Raises DivergedError if the loss is not finite.
        """
        if self._next is not None:
            entry = self._replay(self._next, V, mu)
        else:
            entry = Entry(self._path, self.iteration, V.copy(), mu, self._evaluate(V, mu))
            self._journal.append(run=self._run, **entry.to_arrays())
        self._add(entry)
        if not math.isfinite(entry.value.loss):
            raise DivergedError
        return entry.value

    def start_new_path(self) -> Entry:
        """Abandon the recorded path. Return the best evaluation, where the new path starts."""
        while self._next is not None and self._next.path == self._path:
            self.iteration = self._next.iteration
            self._add(self._count_as_replayed(self._next))
        self._path += 1
        if self.best is None:
            raise ValueError("a new path cannot start before the first evaluation")
        _log.warning(
            "this machine rounds differently from the one that started the run; the run resumes "
            "from its best weights so far, and its result will differ from an uninterrupted run's"
        )
        return self.best

    @property
    def least_loss(self) -> float:
        """The lowest hinge loss so far."""
        return self.best.value.hinge_loss if self.best else math.inf

    @property
    def passes(self) -> int:
        """The number of evaluations so far."""
        return len(self.losses)

    def _replay(self, entry: Entry, V: Floats, mu: float) -> Entry:
        if entry.mu != mu or not np.array_equal(entry.V, V):
            raise OffTheRecordError
        return self._count_as_replayed(entry)

    def _count_as_replayed(self, entry: Entry) -> Entry:
        """Count an entry of the journal as replayed, and read the next one."""
        self._next = next(self._recorded, None)
        self.replayed += 1
        self.resumed_at = entry.iteration
        return entry

    def _add(self, entry: Entry) -> None:
        loss = entry.value.hinge_loss
        if self.best is None or loss < self.least_loss:
            self.best = entry
        self.lower_bound = max(self.lower_bound, entry.value.lower_bound)
        self.losses.append(loss)
        self.lower_bounds.append(self.lower_bound)
        self._report(self)
