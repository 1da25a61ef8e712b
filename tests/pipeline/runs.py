"""Reference training runs over arrays in one process, which every run on a cluster must equal."""

from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from kernels.hinge import loss_and_gradient
from pipeline.cluster.placement import PlacedDataset
from pipeline.inputs.batches import Batches, ShuffledEpochs, UniformSamples
from pipeline.training.descent import DescentState
from pipeline.training.parameters import GradientDescent, MiniBatches, StepPlacement
from pipeline.training.steps import prepare_steps, train
from storage.dataset import Dataset
from tests.bits import bits

Floats = NDArray[np.float64]

StepRun = GradientDescent | MiniBatches

GD = GradientDescent(steps=6, step_size=2e-7, reg=10.0, init="normal:1e-3")
SAMPLES = MiniBatches(steps=12, step_size=2e-7, reg=10.0, init="normal:1e-3", batch_size=96, seed=3)
MOMENTUM: dict[str, Any] = {"momentum": 0.9, "schedule": "staircase:0.5:2"}
KINDS: dict[str, StepRun] = {
    "gd": GD,
    "samples": SAMPLES,
    "epochs": replace(SAMPLES, steps=None, epochs=2, batch_size=450),
}
WITH_MOMENTUM: dict[str, StepRun] = {
    "gd with momentum": replace(GD, **MOMENTUM),
    "samples with Nesterov momentum": replace(SAMPLES, **MOMENTUM, nesterov=True),
}


def parameters(kind: str, **changes: Any) -> StepRun:
    return replace((KINDS | WITH_MOMENTUM)[kind], **changes)


@dataclass(frozen=True)
class Trained:
    """The result of a run. Two results are equal if they are bit-identical."""

    bits: str
    step: int
    status: str
    W: Floats = field(compare=False, repr=False)
    losses: Floats = field(compare=False, repr=False)

    @classmethod
    def to(cls, W: Floats, losses: Floats, step: int, status: str) -> "Trained":
        return cls(bits(W, losses), step, status, W, losses)

    @classmethod
    def of(cls, state: DescentState) -> "Trained":
        return cls.to(state.W, state.losses, state.step, state.status.value)


def reference_run(dataset: Dataset, wanted: StepRun) -> Trained:
    """Train with the update formula, on all images in this process."""
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    rows = len(labels)
    W = wanted.start(10).W
    losses = []
    velocity = np.zeros_like(W)
    for number in range(wanted.total_steps(rows)):
        picked = _rows(wanted, rows)(number)
        loss, gradient = loss_and_gradient(
            W, images[picked], labels[picked], mean=dataset.mean, reg=wanted.reg, dtype=wanted.dtype
        )
        losses.append(loss)
        velocity = wanted.momentum * velocity + gradient
        step = gradient + wanted.momentum * velocity if wanted.nesterov else velocity
        size = float(wanted.step_size)
        if wanted.schedule != "constant":
            assert wanted.schedule == "staircase:0.5:2"
            size *= 0.5 ** (number // 2)
        W = W - size * step
    return Trained.to(W, np.array(losses), len(losses), "done")


def _rows(wanted: StepRun, rows: int) -> Batches:
    if isinstance(wanted, GradientDescent):
        everything: NDArray[np.int64] = np.arange(rows)
        return lambda _step: everything
    if wanted.epochs is None:
        return UniformSamples(rows, wanted.batch_size, wanted.seed)
    return ShuffledEpochs(rows, wanted.batch_size, wanted.seed)


def run_on_cluster(
    client: Client,
    dataset: Dataset,
    wanted: StepRun,
    placement: StepPlacement,
    report: Any = lambda _step, _loss: None,
) -> Trained:
    wanted = replace(wanted, placement=placement)
    placed_dataset = PlacedDataset(client, dataset)
    with closing(placed_dataset), prepare_steps(placed_dataset, wanted, report) as take_steps:
        steps = wanted.total_steps(dataset.rows("train"))
        return Trained.of(train(take_steps, wanted.start(10), steps))
