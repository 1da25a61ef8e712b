"""L-BFGS on the real CIFAR-10 images: its accuracy, its gap and its number of passes."""

from pathlib import Path

import pytest
from distributed import Client

from pipeline.cluster.actors import Actors
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.tasks import map_in_tasks
from pipeline.journals.journal import Journal
from pipeline.objective import Objective
from pipeline.training.parameters import LBFGS, PassParameters, SmoothedHinge
from pipeline.training.quasi_newton import Minimised, minimise
from tests.pipeline.conftest import Store

pytestmark = [pytest.mark.real, pytest.mark.slow]


def run(placed_dataset: PlacedDataset, journal: Path, wanted: PassParameters) -> Minimised:
    with Journal(journal) as opened, Actors(placed_dataset) as actors:
        return minimise(actors, placed_dataset.dataset, wanted, opened)


def test_lbfgs_exceeds_40_percent_test_accuracy(
    client: Client, store: Store, real_cifar10: Path, tmp_path: Path
) -> None:
    placed_dataset = PlacedDataset(client, store(7001, real_cifar10))
    wanted = LBFGS(reg=1e3)
    found = run(placed_dataset, tmp_path / "journal", wanted)
    map_shards = map_in_tasks(client, placed_dataset.shards("test"))
    assert Objective(map_shards, placed_dataset.dataset.mean)(found.state.W).accuracy > 0.4
    assert len(found.state.losses) < 40


@pytest.mark.parametrize(("reg", "least"), [(1e3, 4.3231), (2.5e4, 5.2637)])
def test_smoothed_closes_the_gap_in_few_passes(
    client: Client, store: Store, real_cifar10: Path, tmp_path: Path, reg: float, least: float
) -> None:
    """The optimum `least` lies between a loss and a lower bound that are 0.0005 apart."""
    placed_dataset = PlacedDataset(client, store(7001, real_cifar10))
    wanted = SmoothedHinge(reg=reg, gap=1e-3)
    found = run(placed_dataset, tmp_path / "smoothed", wanted)
    map_shards = map_in_tasks(client, placed_dataset.shards("train"))
    objective = Objective(map_shards, placed_dataset.dataset.mean, reg, "float64", reg_bias=True)
    loss, bound = objective(found.state.W).loss, found.lower_bounds[-1]
    assert found.gap_reached
    assert 0 <= loss - bound <= 1e-3 * loss
    assert bound < least + 1e-3
    assert loss > least - 1e-3
    assert len(found.state.losses) <= 18  # on W itself it takes 107 and 20 passes
    other = LBFGS(steps=30, reg=reg, reg_bias=True)
    plain = run(placed_dataset, tmp_path / "lbfgs", other).state.losses.min()
    assert bound <= plain < 1.001 * least
