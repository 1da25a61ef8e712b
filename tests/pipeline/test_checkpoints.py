"""Checkpoints: a resumed run is bit-identical, and a checkpoint file is always complete."""

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
from tests.pipeline.runs import (
    KINDS,
    WITH_MOMENTUM,
    Trained,
    parameters,
    reference_run,
    run_on_cluster,
)
from tests.pipeline.workers import until

OPTIMISER = gradient_descent(1.0)


def some_state(step: int = 3) -> DescentState:
    W = np.random.default_rng(step).normal(size=(10, 3073))
    return DescentState(step, W, OPTIMISER.init(W), np.array([9.0, 0.1 + 0.2, np.inf][:step]))


@pytest.mark.parametrize("status", Status)
def test_saved_state_is_loaded_unchanged(tmp_path: Path, status: Status) -> None:
    state = replace(some_state(), status=status)
    save(tmp_path / "state.npz", state)
    loaded = load(tmp_path / "state.npz", OPTIMISER)
    assert Trained.of(loaded) == Trained.of(state)
    assert loaded.memory == state.memory
    assert type(loaded.step) is int
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_save_replaces_the_previous_state(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path / "state.npz", some_state(step))
        assert load(tmp_path / "state.npz", OPTIMISER).step == step
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_truncated_checkpoint_raises_pipeline_error(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save(path, some_state())
    whole = path.read_bytes()
    for length in [0, 1, 30, 100, 1000, *range(5000, len(whole), 40_000), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(PipelineError) as caught:
            load(path, OPTIMISER)
        assert str(caught.value).startswith(f"{path} is not a checkpoint of this run (")
        assert str(caught.value).endswith("); start a new run")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_flipped_bit_raises_pipeline_error(tmp_path: Path, place: float) -> None:
    path = tmp_path / "state.npz"
    save(path, some_state())
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="is not a checkpoint of this run"):
        load(path, OPTIMISER)


def test_file_that_is_not_a_checkpoint_raises_pipeline_error(tmp_path: Path) -> None:
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
        with pytest.raises(PipelineError, match="is not a checkpoint of this run"):
            load(path, OPTIMISER)


def test_failed_save_leaves_only_the_previous_state(tmp_path: Path) -> None:
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


SAVER = """
import itertools, sys
from pathlib import Path
from pipeline.training.checkpoints import save
from tests.pipeline.test_checkpoints import some_state
states = [some_state(step) for step in (1, 2, 3)]
for state in itertools.cycle(states):
    save(Path(sys.argv[1]), state)
"""


@pytest.mark.slow
def test_process_killed_during_a_save_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path)],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    try:
        until(path.exists)
        for _ in range(200):  # while the file is being replaced
            state = load(path, OPTIMISER)
            assert Trained.of(state) == Trained.of(some_state(state.step))
        until(lambda: any(tmp_path.glob("*.tmp")))  # kill it in the middle of writing a file
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
    kind=st.sampled_from([*KINDS, *WITH_MOMENTUM]),
    stops=st.lists(st.integers(0, 15), max_size=3).map(sorted),
)
def test_run_resumed_at_any_steps_is_bit_identical(
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
    assert Trained.of(replace(state, status=Status.DONE)) == reference_run(dataset, wanted)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
@pytest.mark.parametrize("kind", [*KINDS, *WITH_MOMENTUM])
def test_run_resumed_on_the_cluster_is_bit_identical(
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
    assert Trained.of(end) == reference_run(dataset, wanted)


# fmt: off
CHECKPOINT_PLANS = [
    # first step, number of steps, interval, steps with a checkpoint
    (0, 5, 0, [5]),       # no interval: only at the end
    (0, 5, 2, [2, 4, 5]),
    (3, 5, 2, [4, 5]),    # resumed between two checkpoints: at the same steps
    (4, 5, 2, [5]),       # resumed at a checkpoint
    (0, 4, 2, [2, 4]),    # the end is at an interval: one checkpoint there
    (0, 4, 9, [4]),       # an interval longer than the run
    (5, 5, 2, []),        # no steps left
]
# fmt: on


@pytest.mark.parametrize(("start", "steps", "every", "expected"), CHECKPOINT_PLANS)
def test_checkpoints_are_made_at_every_interval_and_at_the_end(
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
def test_divergent_run_stops_with_status_diverged(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    # warnings are errors, so this also tests that the overflow does not warn
    wanted = GradientDescent(steps=50, step_size=1.0, reg=1.0)
    run = run_on_cluster(client, store(), wanted, placement)
    assert run.status == "diverged"
    assert run.step < 50
    assert len(run.losses) == run.step + 1
    assert np.isfinite(run.W).all()


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
def test_run_with_a_non_finite_first_loss_has_diverged(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    wanted = GradientDescent(steps=50, init="normal:1e30")
    run = run_on_cluster(client, store(), wanted, placement)
    assert (run.status, run.step) == ("diverged", 0)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
def test_run_stops_when_the_loss_changes_within_the_tolerance(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    wanted = GradientDescent(steps=10_000, step_size=1e-7, tolerance=0.05)
    run = run_on_cluster(client, store(), wanted, placement)
    losses = run.losses
    assert run.status == "converged"
    assert run.step + 1 == len(losses) < 1000
    assert len(losses) % 10 == 0
    now, before, long_before = (losses[-10:], losses[-20:-10], losses[-30:-20])
    assert before.mean() - now.mean() <= 0.05 * before.mean()
    assert long_before.mean() - before.mean() > 0.05 * long_before.mean()
