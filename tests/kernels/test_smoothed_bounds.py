"""The lower bound is never above the minimum loss, and gets arbitrarily close to it.

The tests use three oracles: the dual value, written out for arbitrary alphas; the true objective
at other weights; and a small problem whose dual SciPy solves to a duality gap of 1e-7.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from kernels.hinge import fold
from kernels.smoothed import finalize, levels, sum_smoothed_rows
from tests.kernels.cases import Case, cases
from tests.kernels.test_smoothed import row_factors, widths

Array = NDArray[np.float64]


def hinge_objective(case: Case) -> float:
    """Return the mean hinge loss plus `reg ||W||^2`, including the bias."""
    hinges = np.maximum(0, case.margins).sum() / len(case.images)
    return float(hinges + case.reg * np.sum(case.W**2))


def dual_value(case: Case, alphas: Array) -> tuple[float, Array]:
    """Return the dual value of alphas (n, C), and G; the label's alpha is ignored."""
    total, G = 0.0, np.zeros(case.W.shape)
    for x, label, row in zip(case.centred, case.labels, alphas, strict=True):
        for j in set(range(len(case.W))) - {int(label)}:
            total += case.delta * row[j] / len(alphas)
            G[j] += row[j] * x / len(alphas)
            G[label] -= row[j] * x / len(alphas)
    return total - float(np.sum(G**2)) / (4 * case.reg), G


@given(case=cases(floats=False), data=st.data())
def test_dual_value_of_any_alphas_is_a_lower_bound(case: Case, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="alphas"))
    shape, grid = (len(case.images), len(case.W)), levels(len(case.W))
    case = case._replace(reg=data.draw(st.sampled_from([0.5, 3.7e4, 1e7]), label="reg"))
    kind = data.draw(st.sampled_from(["any", "0 or 1", "all 1"]), label="alphas")
    alphas = {
        "any": rng.integers(0, grid + 1, shape) / grid,
        "0 or 1": rng.integers(0, 2, shape).astype(float),
        "all 1": np.ones(shape),
    }[kind]
    bound, G = dual_value(case, alphas)
    minimiser = -G / (2 * case.reg)  # of the Lagrangian, where the bound is tightest
    for W in (case.W, np.zeros(G.shape), minimiser, 0.5 * minimiser, minimiser + 1e-6 * case.W):
        loss = hinge_objective(case._replace(W=W))
        assert bound <= loss + 1e-12 * (loss + np.sum(G**2) / case.reg)


@given(case=cases(floats=False), mu=widths, reg=st.sampled_from([0.5, 3.7e4, 1e7]))
def test_lower_bound_is_the_dual_value_of_the_alphas(case: Case, mu: float, reg: float) -> None:
    case = case._replace(reg=reg)
    mean = np.zeros(case.images.shape[1]) if case.mean is None else case.mean
    arguments = (fold(case.W, mean, np.float64), case.images, case.labels)
    total = sum_smoothed_rows(*arguments, mu=mu, delta=case.delta)
    value = finalize(total, case.W, mean, reg=reg, mu=mu, delta=case.delta)
    factors = row_factors(*arguments, mu=mu, delta=case.delta)
    alphas = np.maximum(factors, 0) / levels(len(case.W))
    bound, G = dual_value(case, alphas)
    scale = 1e-12 * (1 + abs(bound) + np.sum(G**2) / reg + value.hinge_loss)
    assert value.hinge_loss == pytest.approx(hinge_objective(case), abs=scale)
    assert value.lower_bound == pytest.approx(bound, abs=scale)
    assert value.lower_bound <= value.hinge_loss + scale
    # Fenchel: alpha is the slope at W, so the smoothed gap is ||gradient||^2 / (4 reg).
    gap = value.loss - value.smoothed_lower_bound
    assert gap == pytest.approx(np.sum(value.gradient**2) / (4 * reg), abs=scale)
    # The gap of the hinge loss is larger by m (1 - m / mu) for every margin between 0 and mu.
    between = case.margins[(case.margins > 0) & (case.margins < mu)]
    rest = np.sum(between * (1 - between / mu)) / len(case.images)
    to_the_level = len(between) / len(case.images) * mu / (2 * levels(len(case.W)))
    gap = value.hinge_loss - value.lower_bound - gap
    assert gap == pytest.approx(rest, abs=scale + to_the_level)


class Values(NamedTuple):
    """The fields of `SmoothedEvaluation` that are compared with the optimum."""

    loss: float
    gradient: Array
    hinge_loss: float
    lower_bound: float


RNG = np.random.default_rng(5)
SMALL = Case(
    W=np.zeros((3, 13)),
    images=RNG.integers(0, 256, (60, 12), dtype=np.uint8),
    labels=RNG.integers(0, 3, 60).astype(np.uint8),
    mean=np.full(12, 120.0),
    delta=1.0,
    reg=100.0,
)


@cache
def reference() -> tuple[float, float]:
    """Return a lower and an upper bound on the minimum loss of SMALL, from its dual."""
    rows, classes = len(SMALL.images), len(SMALL.W)
    wrong = np.arange(classes) != SMALL.labels[:, None]
    units = np.eye(rows * classes).reshape(-1, rows, classes)[wrong.ravel()]
    zero = np.zeros((rows, classes))
    G = np.array([dual_value(SMALL, unit)[1].ravel() for unit in units])  # linear in alpha
    assert dual_value(SMALL, zero)[0] == 0

    def negative_dual(alphas: Array) -> tuple[float, Array]:
        sums = alphas @ G
        value = alphas.sum() / rows - sums @ sums / (4 * SMALL.reg)
        return -value, G @ sums / (2 * SMALL.reg) - 1 / rows

    best = minimize(
        negative_dual,
        np.full(len(G), 0.5),
        jac=True,
        bounds=[(0.0, 1.0)] * len(G),
        method="L-BFGS-B",
        options={"maxcor": 50, "maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-16, "gtol": 1e-13},
    ).x
    W = -(best @ G).reshape(SMALL.W.shape) / (2 * SMALL.reg)
    return -negative_dual(best)[0], hinge_objective(SMALL._replace(W=W))


def test_reference_bounds_differ_by_less_than_1e_7() -> None:
    below, above = reference()
    assert 0.5 < below <= above < below + 1e-7


def evaluate(W: Array, mu: float) -> Values:
    """Evaluate SMALL with the kernel."""
    assert SMALL.mean is not None
    total = sum_smoothed_rows(fold(W, SMALL.mean, np.float64), SMALL.images, SMALL.labels, mu=mu)
    value = finalize(total, W, SMALL.mean, mu=mu, reg=SMALL.reg)
    return Values(value.loss, value.gradient, value.hinge_loss, value.lower_bound)


def evaluate_in_numpy(W: Array, mu: float, fault: str = "") -> Values:
    """Evaluate SMALL without a grid, with the fault that `fault` names, if any."""
    X, reg, rows = SMALL.centred, SMALL.reg, len(SMALL.images)
    scores, own = X @ W.T, (np.arange(rows), SMALL.labels.astype(int))
    m = scores - scores[own][:, None] + SMALL.delta
    m[own] = 0
    alphas = m / mu if fault == "alpha not clipped" else np.clip(m / mu, 0, 1)
    k = alphas.copy()
    if fault != "own class forgotten":
        k[own] = -k.sum(1)
    if fault == "bias missing":
        X = X * ([1] * (X.shape[1] - 1) + [0])
    if fault == "mean forgotten":
        X = SMALL._replace(mean=None).centred
    G = k.T @ X / (1 if fault == "1/N forgotten" else rows)
    factor = {"factor 2 instead of 4": 2, "factor 8 instead of 4": 8}.get(fault, 4)
    smooth = np.sum(alphas * m - mu * alphas**2 / 2) / rows + reg * np.sum(W**2)
    hinges = np.maximum(0, m) if fault != "largest margin only" else np.maximum(0, m).max(1)
    hinge = np.sum(hinges) / rows + reg * np.sum(W**2)
    delta = 0.99 if fault == "delta 0.99" else SMALL.delta
    bound = delta * alphas.sum() / rows - np.sum(G**2) / (factor * reg)
    return Values(float(smooth), G + 2 * reg * W, float(hinge), float(bound))


def assert_gap_closes(evaluate: Callable[[Array, float], Values]) -> None:
    """Compare an evaluation with the reference while minimising the smoothed objective."""
    below, above = reference()
    W: Array = np.zeros(SMALL.W.size)
    for mu in (0.3, 0.03, 0.003):

        def objective(flat: Array, mu: float = mu) -> tuple[float, Any]:
            value = evaluate(flat.reshape(SMALL.W.shape), mu)
            assert value.lower_bound <= above + 1e-12, "a bound above the optimum"
            assert value.hinge_loss >= below - 1e-12, "a loss below the optimum"
            return value.loss, value.gradient.ravel()

        W = minimize(objective, W, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    last = evaluate(W.reshape(SMALL.W.shape), mu)
    assert last.hinge_loss - last.lower_bound < 1e-3 * last.hinge_loss, "the gap stays open"


# The kernel passes, and so does the NumPy implementation that the faults below are planted in.
@pytest.mark.parametrize("evaluate", [evaluate, evaluate_in_numpy], ids=["kernel", "numpy"])
def test_duality_gap_closes(evaluate: Callable[[Array, float], Values]) -> None:
    assert_gap_closes(evaluate)


@pytest.mark.parametrize(
    ("fault", "symptom"),
    [
        ("factor 2 instead of 4", "the gap stays open"),
        ("factor 8 instead of 4", "a bound above the optimum"),
        ("bias missing", "optimum|open"),
        ("mean forgotten", "the gap stays open"),
        ("own class forgotten", "optimum|open"),
        ("alpha not clipped", "optimum|open"),
        ("1/N forgotten", "the gap stays open"),
        ("largest margin only", "a loss below the optimum"),
        ("delta 0.99", "the gap stays open"),
    ],
)
def test_planted_fault_fails_with_its_symptom(fault: str, symptom: str) -> None:
    with pytest.raises(AssertionError, match=symptom):
        assert_gap_closes(lambda W, mu: evaluate_in_numpy(W, mu, fault))
