"""L-BFGS on CIFAR-10 itself: what it reaches, and in how few passes."""

from pathlib import Path

import pytest
from distributed import Client

from flows.defaults import STEPS
from pipeline.actors import Actors
from pipeline.evaluation import in_tasks
from pipeline.journal import Journal
from pipeline.objective import Objective
from pipeline.parameters import Method, TrainingParameters
from pipeline.placement import Placements
from pipeline.quasi_newton import Minimised, minimise
from tests.pipeline.conftest import Store

pytestmark = [pytest.mark.real, pytest.mark.slow]


def run(placements: Placements, journal: Path, wanted: TrainingParameters) -> Minimised:
    with Journal(journal) as opened, Actors(placements) as actors:
        return minimise(actors, placements.dataset, wanted, opened)


def test_lbfgs_passes_forty_percent(
    client: Client, store: Store, real_cifar10: Path, tmp_path: Path
) -> None:
    placements = Placements(client, store(7001, real_cifar10))
    wanted = TrainingParameters(method=Method.LBFGS, steps=STEPS["lbfgs"], reg=1e3)
    found = run(placements, tmp_path / "journal", wanted)
    over = in_tasks(client, placements.shards("test"))
    assert Objective(over, placements.dataset.mean)(found.state.W).accuracy > 0.4
    assert len(found.state.losses) < 40


@pytest.mark.parametrize(("reg", "least"), [(1e3, 4.3231), (2.5e4, 5.2637)])
def test_the_gap_is_closed(
    client: Client, store: Store, real_cifar10: Path, tmp_path: Path, reg: float, least: float
) -> None:
    """`least` is between a loss and a lower bound that are 0.0005 apart."""
    placements = Placements(client, store(7001, real_cifar10))
    wanted = TrainingParameters(
        method=Method.SMOOTHED, steps=STEPS["smoothed"], reg=reg, reg_bias=True, gap=1e-3
    )
    found = run(placements, tmp_path / "smoothed", wanted)
    over = in_tasks(client, placements.shards("train"))
    objective = Objective(over, placements.dataset.mean, reg, "float64", reg_bias=True)
    loss, bound = objective(found.state.W).loss, found.lower_bounds[-1]
    assert found.gap_reached
    assert 0 <= loss - bound <= 1e-3 * loss
    assert bound < least + 1e-3
    assert loss > least - 1e-3
    assert len(found.state.losses) <= 18  # in pixels it takes 20 and 107
    other = TrainingParameters(method=Method.LBFGS, steps=30, reg=reg, reg_bias=True)
    plain = run(placements, tmp_path / "lbfgs", other).state.losses.min()
    assert bound <= plain < 1.001 * least
