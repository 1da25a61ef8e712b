"""Going on with a run: from any step, to the same bits; and a file that is whole or not there."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.updates import gradient_descent
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import load_shard
from pipeline.inputs.errors import PipelineError
from pipeline.objective import Objective
from pipeline.training.checkpoints import load, save
from pipeline.training.descent import DescentState, Status, descend
from pipeline.training.parameters import GradientDescent, StepPlacement
from pipeline.training.steps import prepare_steps, train
from tests.pipeline.conftest import Store
from tests.pipeline.runs import Trained, as_written_down, on_the_cluster, parameters
from tests.pipeline.workers import until

OPTIMISER = gradient_descent(1.0)


def some_state(step: int = 3) -> DescentState:
    W = np.random.default_rng(step).normal(size=(10, 3073))
    return DescentState(step, W, OPTIMISER.init(W), np.array([9.0, 0.1 + 0.2, np.inf][:step]))


@pytest.mark.parametrize("status", Status)
def test_what_is_saved_is_loaded(tmp_path: Path, status: Status) -> None:
    state = replace(some_state(), status=status)
    save(tmp_path / "state.npz", state)
    loaded = load(tmp_path / "state.npz", OPTIMISER)
    assert Trained.of(loaded) == Trained.of(state)
    assert loaded.memory == state.memory
    assert type(loaded.step) is int
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_state_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path / "state.npz", some_state(step))
        assert load(tmp_path / "state.npz", OPTIMISER).step == step
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_truncated_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save(path, some_state())
    whole = path.read_bytes()
    for length in [0, 1, 30, 100, 1000, *range(5000, len(whole), 40_000), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(PipelineError) as caught:
            load(path, OPTIMISER)
        assert str(caught.value).startswith(f"{path} is no checkpoint of this run (")
        assert str(caught.value).endswith("); start the run anew")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_found(tmp_path: Path, place: float) -> None:
    path = tmp_path / "state.npz"
    save(path, some_state())
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="is no checkpoint of this run"):
        load(path, OPTIMISER)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    np.savez(tmp_path / "lacks.npz", W=np.zeros((2, 3)), step=1)
    np.savez(tmp_path / "status.npz", W=np.eye(2), step=1, losses=np.ones(1), status="tired")
    np.save(tmp_path / "array.npy", np.zeros(3))
    wrong = [
        tmp_path / "missing.npz",
        tmp_path,
        write("text.npz", b"not a checkpoint"),
        tmp_path / "lacks.npz",
        tmp_path / "status.npz",
        tmp_path / "array.npy",
    ]
    for path in wrong:
        with pytest.raises(PipelineError, match="is no checkpoint of this run"):
            load(path, OPTIMISER)


def test_what_cannot_be_saved_leaves_the_last_state_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save(path, some_state(2))
    broken = replace(some_state(), losses=np.array([Unpicklable()], dtype=object))
    with pytest.raises(RuntimeError, match="never"):
        save(path, broken)
    assert load(path, OPTIMISER).step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


class Unpicklable:
    def __reduce__(self) -> str:
        raise RuntimeError("never")


SAVES = """
import itertools, sys
from pathlib import Path
from pipeline.training.checkpoints import save
from tests.pipeline.test_checkpoints import some_state
states = [some_state(step) for step in (1, 2, 3)]
for state in itertools.cycle(states):
    save(Path(sys.argv[1]), state)
"""


@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVES, str(path)],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    try:
        until(path.exists)
        for _ in range(200):  # while it is being replaced
            state = load(path, OPTIMISER)
            assert Trained.of(state) == Trained.of(some_state(state.step))
        until(lambda: any(tmp_path.glob("*.tmp")))  # killed in the middle of a file
    finally:
        saver.send_signal(signal.SIGKILL)
        assert saver.wait() == -signal.SIGKILL
    state = load(path, OPTIMISER)
    assert Trained.of(state) == Trained.of(some_state(state.step))


@settings(
    max_examples=10,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(["gd", "samples", "epochs"]),
    stops=st.lists(st.integers(0, 15), max_size=3).map(sorted),
)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(
    store: Store, tmp_path: Path, kind: str, stops: list[int]
) -> None:
    dataset, wanted = store(), parameters(kind)
    steps = wanted.total_steps(2000)
    objective = Objective(
        run_in_process([load_shard(dataset, "train", 0, 2000)]),
        dataset.mean,
        wanted.reg,
        wanted.dtype,
    )
    state = wanted.start(10)
    for stop in (*stops, steps):
        save(tmp_path / "state.npz", state)
        state = load(tmp_path / "state.npz", wanted.optimiser())
        state = descend(objective, wanted.recipe(2000), state, min(stop, steps))
    assert Trained.of(replace(state, status=Status.DONE)) == as_written_down(dataset, wanted)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
@pytest.mark.parametrize("kind", ["gd", "samples", "epochs"])
def test_a_run_resumed_on_the_cluster(
    client: Client, store: Store, tmp_path: Path, kind: str, placement: StepPlacement
) -> None:
    dataset, path = store(), tmp_path / "state.npz"
    wanted = replace(parameters(kind), placement=placement)
    saved = []

    def checkpoint(state: DescentState) -> None:
        save(path, state)
        saved.append(state.step)
        if state.step == 4:
            raise InterruptedError

    steps = wanted.total_steps(2000)
    with (
        pytest.raises(InterruptedError),
        prepare_steps(PlacedDataset(client, dataset), wanted, lambda *_: None) as take_steps,
    ):
        train(take_steps, wanted.start(10), steps, checkpoint_every=2, checkpoint=checkpoint)
    state = load(path, wanted.optimiser())
    assert (saved, state.step, state.status) == ([2, 4], 4, Status.RUNNING)
    with prepare_steps(PlacedDataset(client, dataset), wanted, lambda *_: None) as take_steps:
        end = train(take_steps, state, steps)
    assert Trained.of(end) == as_written_down(dataset, wanted)


# fmt: off
STOPS = [
    # start, steps, every so many, checkpoints at
    (0, 5, 0, [5]),
    (0, 5, 2, [2, 4, 5]),
    (3, 5, 2, [4, 5]),    # resumed between two of them: at the same places
    (4, 5, 2, [5]),
    (0, 4, 2, [2, 4]),
    (0, 4, 9, [4]),
    (5, 5, 2, []),        # nothing is left to do
]
# fmt: on


@pytest.mark.parametrize(("start", "steps", "every", "expected"), STOPS)
def test_where_checkpoints_are_taken(
    start: int, steps: int, every: int, expected: list[int]
) -> None:
    def take_steps(state: DescentState, until: int) -> DescentState:
        return replace(state, step=until)

    saved: list[tuple[int, Status]] = []
    end = train(
        take_steps,
        some_state(start),
        steps,
        checkpoint_every=every,
        checkpoint=lambda state: saved.append((state.step, state.status)),
    )
    assert saved == [(step, Status.RUNNING) for step in expected]
    assert (end.step, end.status) == (max(start, steps), Status.DONE)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
def test_a_run_that_diverges_is_recorded_so(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    wanted = GradientDescent(steps=50, step_size=1.0, reg=1.0)  # warnings are errors here
    run = on_the_cluster(client, store(), wanted, placement)
    assert run.status == "diverged"
    assert run.step < 50
    assert len(run.losses) == run.step + 1
    assert np.isfinite(run.W).all()


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
def test_a_run_that_starts_beyond_all_numbers_has_diverged(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    wanted = GradientDescent(steps=50, init="normal:1e30")
    run = on_the_cluster(client, store(), wanted, placement)
    assert (run.status, run.step) == ("diverged", 0)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
def test_a_run_stops_when_the_loss_no_longer_changes(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    wanted = GradientDescent(steps=10_000, step_size=1e-7, tolerance=0.05)
    run = on_the_cluster(client, store(), wanted, placement)
    losses = run.losses
    assert run.status == "converged"
    assert run.step + 1 == len(losses) < 1000
    assert len(losses) % 10 == 0
    now, before, long_before = (losses[-10:], losses[-20:-10], losses[-30:-20])
    assert before.mean() - now.mean() <= 0.05 * before.mean()
    assert long_before.mean() - before.mean() > 0.05 * long_before.mean()
