"""What a session does before the flow runs: the workers load the images that the run will use."""

from pathlib import Path
from typing import Any

import pytest

from flows.grid.flow import GRID
from flows.landscape.flow import LANDSCAPE
from flows.services import session as sessions
from flows.services.console import Console
from flows.services.prefect_server import Server
from flows.services.session import command_session
from flows.sweep.flow import SWEEP
from flows.train.flow import TRAIN
from pipeline.landscape.parameters import Landscape
from pipeline.sweep.parameters import Sweep
from pipeline.training.grid import TrainingGrid
from pipeline.training.parameters import LBFGS, GradientDescent, MiniBatches, StepPlacement
from storage.dataset import open_dataset
from tests.flows.conftest import User

ONE, ALL = StepPlacement.ONE_WORKER, StepPlacement.ALL_WORKERS


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        (SWEEP, Sweep(), True),
        (GRID, TrainingGrid(), False),  # each trial has its own shards
        (LANDSCAPE, Landscape(), True),
        (LANDSCAPE, Landscape(path="train-1"), False),  # it first repeats the training run
        (TRAIN, LBFGS(), True),
        (TRAIN, GradientDescent(), True),
        (TRAIN, GradientDescent(placement=ONE), False),
        (TRAIN, MiniBatches(), False),  # one worker takes the steps if the images fit
        (TRAIN, MiniBatches(placement=ALL), True),
    ],
)
def test_run_uses_all_shards_unless_it_places_the_images_itself(
    kind: Any, parameters: object, expected: bool
) -> None:
    assert kind.uses_all_shards(parameters) is expected


@pytest.mark.parametrize("load_ahead", [False, True])
def test_workers_load_the_images_while_the_command_waits_for_the_server(
    load_ahead: bool, user: User, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, loading, wait = open_dataset(str(store)), list[set[str]](), Server.wait

    def look_and_wait(server: Server) -> str:
        session = sessions._current.get()
        loading.append({*session.placed(dataset)._loading})
        return wait(server)

    monkeypatch.setattr(Server, "wait", look_and_wait)
    with (
        user.settings(),
        command_session(
            Console(quiet=True), scheduler=user.scheduler, dataset=dataset, load_ahead=load_ahead
        ) as session,
    ):
        assert len(session.placed(dataset).shards("train")) == 2  # one per worker
    assert loading == ([{"train"}] if load_ahead else [set()])
