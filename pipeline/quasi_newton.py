"""L-BFGS over all images: on the hinge itself, and on the smoothed hinge with a certificate.

Both run SciPy's L-BFGS-B on V, with W = T(V) in the frequency domain (`kernels.frequency`),
where it needs a fraction of the passes over the images: to within 0.1 % of the best possible on
CIFAR-10, 8 for 20 at reg = 2.5e4, 14 for 107 at 1e3, 40 for more than 600 at 10. Every pass is
recorded (`pipeline.replay`).

**lbfgs** minimises the regularised hinge as it is. The hinge has kinks, for which L-BFGS is not
made; over many images they are so many and so small that it comes far before no step along its
direction goes down, which ends the run. A bias that is not regularised moves late, for it is
scaled as if it were (on CIFAR-10 at reg = 1e3, after 40 iterations).

**smoothed** certifies itself. At a width mu, every evaluation gives a loss of the true hinge and
a lower bound on the least of all (`kernels.smoothed`), and the run ends once the best loss is
within `gap` of the best bound. What is between the two at one point are

    loss - smoothed_lower_bound = ||gradient||^2 / (4 reg)         the optimisation part
    1/N sum over margins 0 < m < mu of  m (1 - m / mu)             the smoothing part

of which L-BFGS takes away the first, and a smaller mu the second. So mu begins where the second
is expected to be within the gap, 2 delta sqrt(gap); when the first is down to 0.3 of the second
and the gap is still open, the second is too large by a known factor, and as it grows like mu^2,
mu is multiplied by the root of that. A fixed sequence of widths (1, 0.3, 0.1, 0.03) takes more
than twice the passes, 19, 32 and 87, most of them spent on minimising the wrong function well.

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
from pipeline.descent import DescentState, Status
from pipeline.journal import Journal
from pipeline.objective import OverShards
from pipeline.parameters import Method, TrainingParameters
from pipeline.replay import DivergedError, Evaluations, Floats, OffTheRecordError, Value
from pipeline.smoothed import SmoothedObjective
from storage.dataset import Dataset
from storage.schema import IMAGE_SHAPE

SAMPLE_ROWS = 1_000
"""The first rows, by whose variance the coefficients are scaled; it takes no exact value."""

CURVATURE = 0.5
"""The curvature of a loss at delta = 1, in units of the images' variance: by trial, and within
a factor of 4 it changes few passes."""

MEMORY = 10
"""Pairs of steps and gradients that L-BFGS keeps."""

ENOUGH = 0.3
"""A width is done with when the optimisation part is this part of the smoothing part."""

ROUNDING = {"float32": 2e-8, "float64": 1e-14}
"""The part of a loss that may be error where scores are of the type: 20 times what was seen."""

_Flat = np.ndarray[tuple[int], np.dtype[np.float64]]
_UNLIMITED = 2**31 - 1

_LIMIT_REACHED = 1
"""SciPy's status of a run that took all its iterations."""


@dataclass(frozen=True, eq=False)
class Minimised:
    """How far a run is, or got."""

    state: DescentState
    """Its best weights; steps are iterations of `lbfgs`, passes of `smoothed`, losses of passes."""
    lower_bounds: Floats
    """The best lower bound after each pass; -inf for `lbfgs`, which has none."""
    gap_reached: bool
    """Whether the best loss is within the gap of the best lower bound, rounding allowed for."""
    replayed: int
    """How many of the passes were taken from the record."""
    replayed_steps: int
    """How many of the steps were."""


def minimise(
    over: OverShards,
    dataset: Dataset,
    parameters: TrainingParameters,
    journal: Journal,
    report: Callable[[Evaluations], None] = lambda _evaluations: None,
) -> Minimised:
    """Take a run of `lbfgs` or `smoothed` over the training shards to its end.

    What `journal` holds of it is not evaluated again. `report` is called after each evaluation.

    Raises PipelineError if the journal is damaged or of another run.
    """
    T = preconditioner(dataset, parameters)
    start, steps = parameters.start(len(dataset.classes)), parameters.steps or 0
    certified = parameters.method is Method.SMOOTHED
    evaluate = (_smoothed if certified else _plain)(over, dataset, parameters, T)
    evaluations = Evaluations(evaluate, journal, identity(dataset, parameters), report)
    rule = GapRule(parameters.gap, ROUNDING[parameters.dtype], steps)
    # Of many threads SciPy's short sums would take 50 times as long, and be other sums.
    with threadpool_limits(1, user_api="blas"):
        V = T.inverse(start.W)
        if certified:
            status = minimise_smoothed(evaluations, V, rule)
        else:
            status = minimise_hinge(evaluations, V, steps, parameters.tolerance)
    state = DescentState(
        evaluations.passes if certified else evaluations.iteration,
        T.weights(evaluations.best.V) if evaluations.best else start.W,
        (),
        np.array(evaluations.losses),
        status,
    )
    return Minimised(
        state,
        np.array(evaluations.lower_bounds),
        gap_reached=rule.reached(evaluations),
        replayed=evaluations.replayed,
        replayed_steps=evaluations.replayed if certified else evaluations.resumed_at,
    )


def identity(dataset: Dataset, parameters: TrainingParameters) -> str:
    """Say which run it is, for its journal: everything that decides it."""
    return f"{parameters} on {dataset.fingerprint}"


def preconditioner(dataset: Dataset, parameters: TrainingParameters) -> Preconditioner:
    """Return the map to the run's weights, which is the same however rows lie in shards."""
    images, _ = dataset.read("train", 0, min(SAMPLE_ROWS, dataset.rows("train")))
    spread = variance(images.reshape(-1, *IMAGE_SHAPE), dataset.mean.reshape(IMAGE_SHAPE))
    return Preconditioner.of(spread, curvature=CURVATURE, reg=parameters.reg)


def _plain(
    over: OverShards, dataset: Dataset, parameters: TrainingParameters, T: Preconditioner
) -> Callable[[Floats, float], Value]:
    objective = parameters.objective(over, dataset.mean)

    def evaluate(V: Floats, _mu: float) -> Value:
        value = objective(T.weights(V))
        return Value(value.loss, T.gradient(value.gradient), hinge_loss=value.loss)

    return evaluate


def _smoothed(
    over: OverShards, dataset: Dataset, parameters: TrainingParameters, T: Preconditioner
) -> Callable[[Floats, float], Value]:
    objective = SmoothedObjective(over, dataset.mean, parameters.reg, parameters.dtype)

    def evaluate(V: Floats, mu: float) -> Value:
        value = objective(T.weights(V), mu)
        bounds = value.lower_bound, value.smoothed_lower_bound
        return Value(value.loss, T.gradient(value.gradient), value.hinge_loss, *bounds)

    return evaluate


def minimise_hinge(evaluations: Evaluations, V: Floats, steps: int, tolerance: float) -> Status:
    """Run L-BFGS on the hinge from V for as many iterations as that, or as it can."""
    while True:
        left = steps - evaluations.iteration
        try:
            result = _lbfgs(evaluations, evaluations, V, maxiter=left, ftol=tolerance)
        except OffTheRecordError:
            V = evaluations.leave().V
        except DivergedError:
            return Status.DIVERGED
        else:
            return Status.DONE if result.status == _LIMIT_REACHED else Status.CONVERGED


@dataclass(frozen=True)
class GapRule:
    """When a certified run ends, and how it comes to that."""

    gap: float
    """The part of the best loss that it may be above the best lower bound."""
    rounding: float
    """The part of a loss that may be error."""
    passes: int
    """The most that it may take."""

    def reached(self, evaluations: Evaluations) -> bool:
        """Whether the gap is closed."""
        loss = evaluations.least_loss
        above = loss * (1 + self.rounding) - evaluations.lower_bound
        return math.isfinite(loss) and above <= self.gap * loss

    def ended(self, evaluations: Evaluations) -> bool:
        """Whether the gap is closed, or no pass is left."""
        return self.reached(evaluations) or evaluations.passes >= self.passes

    @property
    def first_width(self) -> float:
        """The width whose smoothing part is expected to be within the gap, at delta = 1."""
        return 2 * math.sqrt(self.gap)

    def next_width(self, mu: float, smoothing_part: float, least_loss: float) -> float:
        """Return the width at which the smoothing part, now at mu, will be half the gap.

        >>> rule = GapRule(gap=0.01, rounding=0.0, passes=100)
        >>> rule.next_width(0.2, smoothing_part=0.08, least_loss=4.0)  # 0.08 is to be 0.02
        0.1
        """
        if smoothing_part <= 0:
            return 0.7 * mu
        return mu * min(0.7, math.sqrt(0.5 * self.gap * least_loss / smoothing_part))


def minimise_smoothed(evaluations: Evaluations, V: Floats, rule: GapRule) -> Status:
    """Run L-BFGS on the smoothed hinge from V, at ever smaller widths, until the gap is closed."""
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
            best = evaluations.leave()
            V, mu = best.V, best.mu
            continue
        except DivergedError:
            return Status.DIVERGED
        mu = rule.next_width(mu, stage.value.smoothing_part, evaluations.least_loss)
    return Status.DONE


class _StageOverError(Exception):
    """A width is done with."""


class _Stage:
    """The smoothed objective at one width, until minimising it further would gain little."""

    V: Floats
    """The last point."""
    value: Value
    """What was there."""

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

    def count(xk: _Flat) -> None:  # noqa: ARG001 (the name by which SciPy knows it)
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
