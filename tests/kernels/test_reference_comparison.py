"""The comparison with the reference implementation fails for every planted fault."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.cases import Case, assert_matches_reference

RNG = np.random.default_rng(11)
CASE = Case(
    W=RNG.integers(-16, 17, (4, 8)) / 8,
    images=RNG.integers(0, 256, (5, 7), dtype=np.uint8),
    labels=np.array([0, 1, 2, 3, 1], np.uint8),
    mean=RNG.integers(0, 511, 7) / 2,
    delta=1.0,
    reg=0.5,
)
AT_THE_KINK = CASE._replace(W=np.zeros((4, 8)), delta=0.0)


def loss_and_gradient(case: Case, fault: str = "") -> tuple[float, NDArray[np.float64]]:
    """Compute the objective in NumPy, with the fault that `fault` names, if any."""
    X, labels, W = case.centred, case.labels.astype(int), case.W.copy()
    if fault == "mean forgotten":
        X = case._replace(mean=None).centred
    if fault == "bias missing":
        X[:, -1] = 0
    if fault == "one row dropped":
        X, labels = X[1:], labels[1:]
    if fault == "sign of one class":
        W[2] = -W[2]
    own = np.arange(len(X)), labels
    scores = X @ W.T
    margins = scores - scores[own][:, None] + (0.99 if fault == "delta 0.99" else case.delta)
    margins[own] = 0
    k = (margins >= 0 if fault == ">= instead of >" else margins > 0).astype(float)
    k[own] = 0
    if fault != "own class forgotten":
        k[own] = -k.sum(1)
    gradient = k.T @ X / len(X)
    if fault == "gradient off by 0.1 %":
        gradient[1, 2] *= 1.001
    regularised = W if fault == "bias regularised" else W * ([1] * (W.shape[1] - 1) + [0])
    gradient += (1 if fault == "factor 2 dropped" else 2) * case.reg * regularised
    hinges = np.maximum(0, margins)
    data = hinges.max(1) if fault == "largest margin only" else hinges.sum(1)
    return data.sum() / len(X) + case.reg * (regularised**2).sum(), gradient


@pytest.mark.parametrize("case", [CASE, AT_THE_KINK], ids=["usual", "at the kink"])
def test_correct_objective_matches_the_reference(case: Case) -> None:
    assert_matches_reference(loss_and_gradient, case)


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        ("bias missing", CASE),
        ("bias regularised", CASE),
        ("sign of one class", CASE),
        (">= instead of >", AT_THE_KINK),
        ("own class forgotten", CASE),
        ("factor 2 dropped", CASE),
        ("delta 0.99", CASE),
        ("one row dropped", CASE),
        ("mean forgotten", CASE),
        ("largest margin only", CASE),
        ("gradient off by 0.1 %", CASE),
    ],
)
def test_planted_fault_does_not_match_the_reference(fault: str, case: Case) -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_matches_reference(lambda case: loss_and_gradient(case, fault), case)
