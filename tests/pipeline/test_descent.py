"""The loop over steps and the stop rule, on functions whose values are calculated by hand."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.partial import Evaluation
from kernels.updates import gradient_descent
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.shards import load_shard
from pipeline.inputs.examples import Rows
from pipeline.objective import Objective
from pipeline.training.descent import DescentState, Recipe, Status, StopRule, descend
from tests.bits import bits
from tests.pipeline.conftest import Store

NEVER = StopRule(window=1000)


@dataclass
class CallLog:
    """The weights and rows at which an objective was evaluated."""

    W: list[float] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)


def one_weight_objective(
    loss: Callable[[float], float], slope: Callable[[float], float], calls: CallLog | None = None
) -> Objective:
    """Return an objective of one weight."""
    calls = calls or CallLog()

    def value(W: NDArray[np.float64], rows: Rows | None = None) -> Evaluation:
        w = float(W[0, 0])
        calls.W.append(w)
        calls.rows.append(None if rows is None else rows.tolist())
        return Evaluation(loss(w), np.array([[slope(w)]]), 0.0, 1)

    return cast("Objective", value)


def parabola(calls: CallLog | None = None) -> Objective:
    return one_weight_objective(lambda w: w * w, lambda w: 2 * w, calls)


def scripted_losses(*losses: float) -> Objective:
    """Return an objective that returns these losses in order, with slope 1."""
    rest: Iterator[float] = iter(losses)
    return one_weight_objective(lambda _w: next(rest), lambda _w: 1.0)


def no_batch(_step: int) -> None:
    return None


def recipe(step_size: float = 0.25, rule: StopRule = NEVER, batches: Any = no_batch) -> Recipe:
    return Recipe(batches, gradient_descent(step_size), rule)


def start(w: float = 8.0, losses: tuple[float, ...] = ()) -> DescentState:
    W = np.array([[w]])
    return DescentState(len(losses), W, gradient_descent(1.0).init(W), np.array(losses))


def test_steps_on_a_parabola_match_hand_calculation() -> None:
    calls = CallLog()
    reports: list[tuple[int, float]] = []
    end = descend(parabola(calls), recipe(), start(), 3, lambda *news: reports.append(news))
    assert calls.W == [8.0, 4.0, 2.0]  # w <- w - 1/4 * 2 w
    assert end.W.tolist() == [[1.0]]
    assert end.losses.tolist() == [64.0, 16.0, 4.0]  # at the weights before each step
    assert reports == [(1, 64.0), (2, 16.0), (3, 4.0)]
    assert (end.step, end.status) == (3, Status.RUNNING)


def test_each_step_uses_its_own_batch_even_after_resuming() -> None:
    calls = CallLog()
    batches = recipe(batches=lambda step: np.array([step, step * step]))
    middle = descend(parabola(calls), batches, start(), 2)
    descend(parabola(calls), batches, middle, 4)
    assert calls.rows == [[0, 0], [1, 1], [2, 4], [3, 9]]


@pytest.mark.parametrize("until", [0, 2])
def test_state_with_enough_steps_is_unchanged(until: int) -> None:
    state = start(losses=(1.0, 1.0))
    end = descend(scripted_losses(), recipe(), state, until)
    assert (end.step, end.W.tolist(), end.losses.tolist()) == (2, [[8.0]], [1.0, 1.0])


def test_ended_state_is_unchanged() -> None:
    state = replace(start(), status=Status.CONVERGED)
    end = descend(scripted_losses(), recipe(), state, 5)
    assert (end.step, end.status) == (0, Status.CONVERGED)


@given(stops=st.lists(st.integers(0, 12), max_size=5).map(sorted))
def test_stopping_and_resuming_is_bit_identical(stops: list[int]) -> None:
    whole = descend(parabola(), recipe(0.3), start(), 12)
    state = start()
    for stop in (*stops, 12):
        state = descend(parabola(), recipe(0.3), state, stop)
    assert bits(state.W) == bits(whole.W)
    assert bits(state.losses) == bits(whole.losses)
    assert state.step == whole.step == 12


@pytest.mark.parametrize("bad", [math.inf, math.nan, 400.5])
def test_divergent_step_is_evaluated_but_not_taken(bad: float) -> None:
    reports: list[int] = []
    objective = scripted_losses(4.0, 400.0, bad, 1.0)  # 100 times the first loss is allowed
    end = descend(objective, recipe(1.0), start(), 9, lambda step, _: reports.append(step))
    assert end.status is Status.DIVERGED
    assert (end.step, end.W.tolist()) == (2, [[6.0]])
    assert end.losses.tolist()[:2] == [4.0, 400.0]
    assert len(end.losses) == 3
    assert reports == [1, 2]


# fmt: off
RULES = [
    # window, tolerance, losses, status
    (1, 0.0, [5.0], Status.RUNNING),                                  # no earlier loss
    (1, 0.0, [5.0, 5.0], Status.CONVERGED),
    (1, 0.0, [5.0, np.nextafter(5.0, 6)], Status.RUNNING),            # differs in the last bit
    (2, 0.0, [5.0, 5.0], Status.RUNNING),                             # only one window
    (2, 0.0, [5.0, 5.0, 5.0], Status.RUNNING),
    (2, 0.0, [5.0, 5.0, 5.0, 5.0], Status.CONVERGED),
    (2, 0.0, [9.0, 5.0, 5.0, 5.0, 5.0], Status.RUNNING),              # not at the end of a window
    (2, 0.0, [9.0, 9.0, 5.0, 5.0, 5.0, 5.0], Status.CONVERGED),       # older losses do not count
    (2, 0.0, [1.0, 2.0, 1.0, 2.0], Status.RUNNING),                   # oscillates, equal means
    (2, 0.0, [1.0, 3.0, 2.0, 2.0], Status.RUNNING),                   # equal means, unequal losses
    (1, 0.25, [4.0, 3.0], Status.CONVERGED),                          # exactly at the tolerance
    (1, 0.25, [4.0, 2.99], Status.RUNNING),
    (1, 0.25, [4.0, 5.0], Status.CONVERGED),                          # a rise counts like a fall
    (1, 0.25, [4.0, 5.01], Status.RUNNING),
    (2, 0.25, [1.0, 3.0, 2.0, 1.0], Status.CONVERGED),                # means 2 and 1.5
    (2, 0.25, [1.0, 3.0, 1.9, 1.0], Status.RUNNING),                  # means 2 and 1.45
    (1, 0.25, [0.0, 0.0], Status.CONVERGED),
    (1, 0.0, [4.0, 400.0], Status.RUNNING),
    (1, 0.0, [4.0, 401.0], Status.DIVERGED),
    (1, 0.0, [0.25, 100.0], Status.RUNNING),                          # small first loss: up to 100
    (1, 0.0, [0.25, 101.0], Status.DIVERGED),
    (1, 0.9, [4.0, math.nan], Status.DIVERGED),
    (1, 0.9, [math.nan], Status.DIVERGED),
    (1, 0.9, [math.inf], Status.DIVERGED),                            # also at the first step
    (1, 0.0, [-math.inf], Status.DIVERGED),
]
# fmt: on


@pytest.mark.parametrize(("window", "tolerance", "losses", "status"), RULES)
def test_stop_rule_returns_the_expected_status(
    window: int, tolerance: float, losses: list[float], status: Status
) -> None:
    assert StopRule(window, tolerance)(losses) is status


def test_run_stops_when_it_has_converged() -> None:
    end = descend(parabola(), recipe(0.5, StopRule(1, 0.5)), start(), 100)
    # with a step size of 1/2, the first step leads to the minimum
    assert end.losses.tolist() == [64.0, 0.0, 0.0]
    assert (end.step, end.status) == (2, Status.CONVERGED)


def test_zero_tolerance_requires_that_all_losses_are_equal() -> None:
    end = descend(parabola(), recipe(2.0**-30, StopRule(5)), start(), 200)
    assert (end.step, end.status) == (200, Status.RUNNING)
    swinging = descend(parabola(), recipe(1.0, StopRule(5)), start(), 200)  # 8, -8, 8, ...
    assert swinging.status is Status.CONVERGED  # the loss is always the same
    to_and_fro = one_weight_objective(lambda w: w + 9, lambda w: 2 * w)
    assert descend(to_and_fro, recipe(1.0, StopRule(2)), start(), 50).status is Status.RUNNING


def test_small_step_size_lowers_the_loss_at_every_step(store: Store) -> None:
    dataset = store()
    objective = Objective(run_in_process([load_shard(dataset, "train", 0, 2000)]), dataset.mean)
    W = np.zeros((10, 3073))
    state = DescentState(0, W, gradient_descent(1e-8).init(W), np.empty(0))
    end = descend(objective, recipe(1e-8), state, 25)
    assert end.losses[0] == 9.0  # every margin is 1
    assert np.all(np.diff(end.losses) < 0)
    assert end.losses[-1] < 8.5
    assert len(end.losses) == end.step == 25
