"""L-BFGS over all images: on the hinge loss itself, and on a smoothed hinge with a certificate.

Both run SciPy's L-BFGS-B on V, where W = T(V) and V is in the frequency domain
(`kernels.frequency`). On V, L-BFGS needs fewer passes over the images than on W. To get within
0.1 % of the best possible loss on CIFAR-10, it needs 8 passes instead of 20 at reg = 2.5e4, 14
instead of 107 at 1e3, and 40 instead of more than 600 at 10. Every pass is recorded
(`pipeline.training.replay`).

**lbfgs** minimises the regularised hinge loss itself. The run ends when no step along its search
direction lowers the loss. L-BFGS is not designed for the kinks of the hinge, but over many images
the kinks are many and small, so the run makes much progress before it ends. A bias that is not
regularised starts to move late (on CIFAR-10 at reg = 1e3, after 40 iterations), because it is
scaled as if it were regularised.

**smoothed** certifies its result. At a width mu, every evaluation gives the true hinge loss and a
lower bound on the least loss of all weights (`kernels.smoothed`). The run ends once the best loss
is within `gap` of the best bound. At a single point the difference of the two has two parts:

    loss - smoothed_lower_bound = ||gradient||^2 / (4 reg)         the optimisation part
    1/N sum over margins 0 < m < mu of  m (1 - m / mu)             the smoothing part

L-BFGS reduces the first part, and a smaller mu reduces the second. The first mu is 2 delta
sqrt(gap), where the second part is expected to be within the gap. When the first part is down to
0.3 of the second and the gap is still open, the second part is too large by a known factor. It
grows like mu^2, so mu is divided by the square root of that factor. A fixed sequence of widths
(1, 0.3, 0.1, 0.03) takes more than twice the passes (19, 32 and 87), because it spends most of
them on minimising the wrong function accurately.

R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound constrained
optimization", SIAM J. Sci. Comput. 16, 1995.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits

from kernels.frequency import Preconditioner, variance
from pipeline.cluster.map_shards import MapShards
from pipeline.journals.journal import Journal
from pipeline.training.descent import DescentState, Status
from pipeline.training.parameters import PassParameters, SmoothedHinge
from pipeline.training.replay import (
    DivergedError,
    Evaluate,
    Evaluations,
    Floats,
    OffTheRecordError,
    Value,
)
from pipeline.training.smoothed import SmoothedObjective
from storage.dataset import Dataset
from storage.schema import IMAGE_SHAPE

SAMPLE_ROWS = 1_000
"""The variance that scales the coefficients is computed from this many of the first rows. A rough
value is enough."""

CURVATURE = 0.5
"""The curvature of a loss at delta = 1, in units of the images' variance. Found by experiment.
A value up to 4 times as large or small hardly changes the number of passes."""

MEMORY = 10
"""How many pairs of steps and gradient changes L-BFGS keeps."""

ENOUGH = 0.3
"""A width is finished when the optimisation part is at most this fraction of the smoothing part."""

ROUNDING = {"float32": 2e-8, "float64": 1e-14}
"""The relative rounding error of a loss, by the type of the scores: 20 times the largest error
seen."""

_Flat = np.ndarray[tuple[int], np.dtype[np.float64]]
_UNLIMITED = 2**31 - 1

_LIMIT_REACHED = 1
"""SciPy's status for a run that used all its iterations."""

ReportPass = Callable[[Evaluations], None]
"""Called after each evaluation."""


@dataclass(frozen=True, eq=False)
class Minimised:
    """The result of a run of `lbfgs` or `smoothed`."""

    state: DescentState
    """The state with the best weights. Its steps are iterations for `lbfgs` and passes for
    `smoothed`. It has one loss per pass."""
    lower_bounds: Floats
    """The best lower bound after each pass; -inf for `lbfgs`, which computes none."""
    gap_reached: bool
    """Whether the best loss is within the gap of the best lower bound, allowing for rounding."""
    replayed: int
    """How many of the passes were taken from the journal."""
    replayed_steps: int
    """How many of the steps were taken from the journal."""


def minimise(
    map_shards: MapShards,
    dataset: Dataset,
    parameters: PassParameters,
    journal: Journal,
    report: ReportPass = lambda _evaluations: None,
) -> Minimised:
    """Run `lbfgs` or `smoothed` over the training shards to its end.

    Evaluations that are in `journal` are not computed again.

    Raises PipelineError if the journal is damaged or belongs to another run.
    """
    T = preconditioner(dataset, parameters)
    first_weights = parameters.first_weights(len(dataset.classes))
    certified = isinstance(parameters, SmoothedHinge)
    evaluator = _smoothed_evaluator if certified else _hinge_evaluator
    evaluate = evaluator(map_shards, dataset, parameters, T)
    evaluations = Evaluations(evaluate, journal, identity(dataset, parameters), report)
    # With many threads SciPy's short sums would take 50 times as long, and round differently.
    with threadpool_limits(1, user_api="blas"):
        V, gap_reached = T.inverse(first_weights), False
        if isinstance(parameters, SmoothedHinge):
            rule = GapRule(parameters.gap, ROUNDING[parameters.dtype], parameters.steps)
            status = minimise_smoothed(evaluations, V, rule)
            gap_reached = rule.reached(evaluations)
        else:
            status = minimise_hinge(evaluations, V, parameters.steps, parameters.tolerance)
    state = DescentState(
        evaluations.passes if certified else evaluations.iteration,
        T.weights(evaluations.best.V) if evaluations.best else first_weights,
        (),
        np.array(evaluations.losses),
        status,
    )
    return Minimised(
        state,
        np.array(evaluations.lower_bounds),
        gap_reached=gap_reached,
        replayed=evaluations.replayed,
        replayed_steps=evaluations.replayed if certified else evaluations.resumed_at,
    )


def identity(dataset: Dataset, parameters: PassParameters) -> str:
    """Return the text that identifies a run in its journal: everything that decides the run."""
    return f"{parameters.identity} on {dataset.fingerprint}"


def preconditioner(dataset: Dataset, parameters: PassParameters) -> Preconditioner:
    """Return the map from V to the run's weights. It does not depend on the shards."""
    images, _ = dataset.read("train", 0, min(SAMPLE_ROWS, dataset.rows("train")))
    spread = variance(images.reshape(-1, *IMAGE_SHAPE), dataset.mean.reshape(IMAGE_SHAPE))
    return Preconditioner.of(spread, curvature=CURVATURE, reg=parameters.reg)


def _hinge_evaluator(
    map_shards: MapShards, dataset: Dataset, parameters: PassParameters, T: Preconditioner
) -> Evaluate:
    objective = parameters.objective(map_shards, dataset.mean)

    def evaluate(V: Floats, _mu: float) -> Value:
        value = objective(T.weights(V))
        return Value(value.loss, T.gradient(value.gradient), hinge_loss=value.loss)

    return evaluate


def _smoothed_evaluator(
    map_shards: MapShards, dataset: Dataset, parameters: PassParameters, T: Preconditioner
) -> Evaluate:
    objective = SmoothedObjective(map_shards, dataset.mean, parameters.reg, parameters.dtype)

    def evaluate(V: Floats, mu: float) -> Value:
        value = objective(T.weights(V), mu)
        bounds = value.lower_bound, value.smoothed_lower_bound
        return Value(value.loss, T.gradient(value.gradient), value.hinge_loss, *bounds)

    return evaluate


def minimise_hinge(evaluations: Evaluations, V: Floats, steps: int, tolerance: float) -> Status:
    """Run L-BFGS on the hinge loss from V for at most `steps` iterations."""
    while True:
        left = steps - evaluations.iteration
        try:
            result = _lbfgs(evaluations, evaluations, V, maxiter=left, ftol=tolerance)
        except OffTheRecordError:
            V = evaluations.start_new_path().V
        except DivergedError:
            return Status.DIVERGED
        else:
            return Status.DONE if result.status == _LIMIT_REACHED else Status.CONVERGED


@dataclass(frozen=True)
class GapRule:
    """The rule for when a certified run ends and which smoothing widths it uses."""

    gap: float
    """How far the best loss may be above the best lower bound, as a fraction of the loss."""
    rounding: float
    """The relative rounding error of a loss."""
    passes: int
    """The maximum number of passes."""

    def reached(self, evaluations: Evaluations) -> bool:
        """Return whether the gap is closed."""
        loss = evaluations.least_loss
        above = loss * (1 + self.rounding) - evaluations.lower_bound
        return math.isfinite(loss) and above <= self.gap * loss

    def ended(self, evaluations: Evaluations) -> bool:
        """Return whether the gap is closed or no pass is left."""
        return self.reached(evaluations) or evaluations.passes >= self.passes

    @property
    def first_width(self) -> float:
        """The width at which the smoothing part is expected to be within the gap, at delta = 1."""
        return 2 * math.sqrt(self.gap)

    def next_width(self, mu: float, smoothing_part: float, least_loss: float) -> float:
        """Return the width at which the smoothing part is expected to be half the gap.

        `smoothing_part` is the smoothing part at the width `mu`. The new width is at most `0.7 mu`.

        Examples:
            >>> rule = GapRule(gap=0.01, rounding=0.0, passes=100)
            >>> rule.next_width(0.2, smoothing_part=0.08, least_loss=4.0)  # half the gap is 0.02
            0.1
        """
        if smoothing_part <= 0:
            return 0.7 * mu
        return mu * min(0.7, math.sqrt(0.5 * self.gap * least_loss / smoothing_part))


def minimise_smoothed(evaluations: Evaluations, V: Floats, rule: GapRule) -> Status:
    """Run L-BFGS on the smoothed hinge from V, at decreasing widths, until the gap is closed."""
    mu = rule.first_width
    while not rule.ended(evaluations):
        stage = _Stage(evaluations, rule, mu)
        before = evaluations.least_loss, evaluations.lower_bound
        try:
            V = _lbfgs(stage, evaluations, V).x.reshape(V.shape)
            if (evaluations.least_loss, evaluations.lower_bound) == before:
                return Status.CONVERGED
        except _StageOverError:
            V = stage.V
        except OffTheRecordError:
            best = evaluations.start_new_path()
            V, mu = best.V, best.mu
            continue
        except DivergedError:
            return Status.DIVERGED
        mu = rule.next_width(mu, stage.value.smoothing_part, evaluations.least_loss)
    return Status.DONE


class _StageOverError(Exception):
    """A width is finished."""


class _Stage:
    """The smoothed objective at one width.

    Raises _StageOverError when minimising further at this width would gain little.
    """

    V: Floats
    """The last point."""
    value: Value
    """The value at the last point."""

    def __init__(self, evaluations: Evaluations, rule: GapRule, mu: float) -> None:
        self._evaluations, self._rule, self._mu = evaluations, rule, mu

    def __call__(self, V: Floats) -> Value:
        self.V, self.value = V, self._evaluations(V, self._mu)
        little = self.value.optimisation_part <= ENOUGH * self.value.smoothing_part
        if little or self._rule.ended(self._evaluations):
            raise _StageOverError
        return self.value


def _lbfgs(
    objective: Callable[[Floats], Value],
    evaluations: Evaluations,
    V: Floats,
    *,
    maxiter: int = _UNLIMITED,
    ftol: float = 0.0,
) -> "OptimizeResult[Any]":
    """Run SciPy's L-BFGS-B from V, counting iterations in `evaluations`."""

    def flat(x: _Flat) -> tuple[float, _Flat]:
        value = objective(x.reshape(V.shape))
        return value.loss, value.gradient.ravel()

    def count(xk: _Flat) -> None:  # noqa: ARG001 (SciPy looks at the argument's name)
        evaluations.iteration += 1

    return minimize(
        flat,
        V.ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=count,
        options={
            "maxcor": MEMORY,
            "maxiter": maxiter,
            "maxfun": _UNLIMITED,
            "ftol": ftol,
            "gtol": 0.0,
        },
    )
