"""A minimiser's evaluations, recorded: a run that was killed goes over them again for nothing.

SciPy does not show the state of a minimiser, so it cannot be stored and gone on with. But it
is a function of the values it is given: given the recorded ones it asks for the same points
again, in milliseconds, and then goes on as if it had never been away.

That holds to the last bit of each point, so on one machine. Another processor or version of
SciPy may round otherwise; then the record is of another path and no use to this one. The run
leaves it, and goes on along a new path from the best point there was on the old.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.journal import Journal

Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)


class Value(NamedTuple):
    """What an evaluation says."""

    loss: float
    """What is minimised."""
    gradient: Floats
    """Its gradient with respect to V (C, D + 1)."""
    hinge_loss: float
    """The true loss there: the mean hinge plus the regulariser."""
    lower_bound: float = -math.inf
    """Never above the least `hinge_loss` there is; -inf where nothing is known of it."""
    smoothed_lower_bound: float = -math.inf
    """Never above the least `loss` there is."""

    @property
    def optimisation_part(self) -> float:
        """How much of `hinge_loss - lower_bound` minimising further can take away."""
        return self.loss - self.smoothed_lower_bound

    @property
    def smoothing_part(self) -> float:
        """How much of it only less smoothing can."""
        return self.hinge_loss - self.lower_bound - self.optimisation_part


class Entry(NamedTuple):
    """An evaluation, as it is recorded."""

    path: int
    """How many paths were left before this one."""
    iteration: int
    """How many iterations were finished before it."""
    V: Floats
    """The point (C, D + 1), in the minimiser's own coordinates."""
    mu: float
    """What the hinge was smoothed by; 0 for not at all."""
    value: Value

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Entry":
        """Read what `arrays` made."""
        floats = {name: float(arrays[name]) for name in Value._fields if name != "gradient"}
        value = Value(gradient=arrays["gradient"], **floats)
        path, iteration = int(arrays["path"]), int(arrays["iteration"])
        return cls(path, iteration, arrays["V"], float(arrays["mu"]), value)

    def arrays(self) -> dict[str, Any]:
        """Return it as named arrays."""
        where = {"path": self.path, "iteration": self.iteration, "V": self.V, "mu": self.mu}
        return where | self.value._asdict()


def entries(journal: Journal, run: str) -> Iterator[Entry]:
    """Yield the evaluations that a run's journal holds.

    Raises PipelineError if it is damaged, or of another run.
    """
    for arrays in journal:
        if str(arrays.get("run")) != run:
            raise PipelineError("the run's journal is of another run; start the run anew")
        yield Entry.of(arrays)


class OffTheRecordError(Exception):
    """The minimiser asked for another point than is recorded."""


class DivergedError(Exception):
    """A loss is no number."""


Evaluate = Callable[[Floats, float], Value]
"""`evaluate(V, mu)`: a pass over the data."""


class Evaluations:
    """All evaluations of a run: from its journal as far as that goes, and then live.

    `run` says which run it is: everything that decides it. `report` is called after each.

    Raises PipelineError if the journal is damaged, or of another run.
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
        """Iterations finished; the minimiser counts them here."""
        self.best: Entry | None = None
        """The one with the lowest hinge loss."""
        self.lower_bound = -math.inf
        """The highest of all lower bounds."""
        self.losses: list[float] = []
        """The hinge loss of each evaluation."""
        self.lower_bounds: list[float] = []
        """The highest lower bound after each."""
        self.replayed = 0
        """How many evaluations were recorded."""
        self.resumed_at = 0
        """Iterations finished at the last of these."""

    def __call__(self, V: Floats, mu: float = 0.0) -> Value:
        """Evaluate at V.

        Raises OffTheRecordError, upon which `leave` is to be called, and DivergedError.
        """
        if self._next is not None:
            entry = self._replayed(self._next, V, mu)
        else:
            entry = Entry(self._path, self.iteration, V.copy(), mu, self._evaluate(V, mu))
            self._journal.append(run=self._run, **entry.arrays())
        self._take_in(entry)
        if not math.isfinite(entry.value.loss):
            raise DivergedError
        return entry.value

    def leave(self) -> Entry:
        """Give up the recorded path for a new one; return the best evaluation, to start from."""
        while self._next is not None and self._next.path == self._path:
            self.iteration = self._next.iteration
            self._take_in(self._recorded_one(self._next))
        self._path += 1
        if self.best is None:
            raise ValueError("no path is left before its first evaluation")
        _log.warning(
            "this machine rounds otherwise than the one that began the run, which goes on from its "
            "best weights so far instead of as if it had never stopped"
        )
        return self.best

    @property
    def least_loss(self) -> float:
        """The lowest hinge loss so far."""
        return self.best.value.hinge_loss if self.best else math.inf

    @property
    def passes(self) -> int:
        """How many evaluations there were."""
        return len(self.losses)

    def _replayed(self, entry: Entry, V: Floats, mu: float) -> Entry:
        if entry.mu != mu or not np.array_equal(entry.V, V):
            raise OffTheRecordError
        return self._recorded_one(entry)

    def _recorded_one(self, entry: Entry) -> Entry:
        """Count an entry that was read, and read the next."""
        self._next = next(self._recorded, None)
        self.replayed += 1
        self.resumed_at = entry.iteration
        return entry

    def _take_in(self, entry: Entry) -> None:
        loss = entry.value.hinge_loss
        if self.best is None or loss < self.least_loss:
            self.best = entry
        self.lower_bound = max(self.lower_bound, entry.value.lower_bound)
        self.losses.append(loss)
        self.lower_bounds.append(self.lower_bound)
        self._report(self)
