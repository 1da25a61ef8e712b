"""Metrics of each worker: steps and images per second, the newest loss, and resident bytes.

A pass over images counts each of them once, whatever is computed from them.

Dask shows them as columns of the worker table (`/workers`), and Prometheus finds them at `/metrics`
of each worker. They are installed on a worker at its first use, so they need no plugin that every
worker of a foreign cluster would have to be able to import.
"""

import time
from collections import deque
from collections.abc import Iterator
from functools import cache
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from dask.utils import key_split
from distributed import Worker, get_worker

RATE_SECONDS = 5.0
"""Rates are means over this time."""

_SAMPLE_SECONDS = 0.5

STEPS, IMAGES = "hinge_steps_per_second", "hinge_images_per_second"
LOSS, RESIDENT = "hinge_loss", "hinge_resident_bytes"


class _Sample(NamedTuple):
    time: float
    steps: int
    images: int


class StepMeter:
    """Counts the steps of one worker. Counting is cheap; rates are computed when they are read."""

    def __init__(self) -> None:
        self.steps = 0
        self.images = 0
        self.loss: float | None = None
        self._samples = deque([_Sample(time.monotonic(), 0, 0)])

    def count(self, images: int, loss: float | None) -> None:
        """Count one step over some images. `loss` is the newest known loss of the run."""
        self.steps += 1
        self.loss = loss
        self.count_images(images)

    def count_images(self, images: int) -> None:
        """Count a pass over some images that is not a step."""
        self.images += images

    def rates(self) -> tuple[float, float]:
        """Return the steps and the images per second, over the last `RATE_SECONDS`."""
        now = _Sample(time.monotonic(), self.steps, self.images)
        samples = self._samples
        while len(samples) > 1 and samples[1].time <= now.time - RATE_SECONDS:
            samples.popleft()
        first = samples[0]
        if now.time - samples[-1].time >= _SAMPLE_SECONDS:
            samples.append(now)
        seconds = max(now.time - first.time, 1e-3)
        return (now.steps - first.steps) / seconds, (now.images - first.images) / seconds


_meters: "WeakKeyDictionary[Worker, StepMeter]" = WeakKeyDictionary()
"""The meters of all workers in this process."""

_installing = Lock()


def step_meter() -> StepMeter:
    """Return the meter of the worker that runs this task. Install its metrics at the first call."""
    worker = get_worker()
    with _installing:  # the first tasks of a worker start together
        if worker not in _meters:
            _export_to_prometheus()
            _meters[worker] = StepMeter()
            worker.metrics.update(
                {
                    STEPS: lambda worker: round(_meters[worker].rates()[0], 1),
                    IMAGES: lambda worker: round(_meters[worker].rates()[1]),
                    LOSS: lambda worker: _as_text(_meters[worker].loss),
                    RESIDENT: resident_bytes,
                }
            )
        return _meters[worker]


def resident_bytes(worker: Worker) -> int:
    """Return the size of the shards in the worker's memory, in bytes."""
    return sum(
        task.nbytes or 0
        for key, task in worker.state.tasks.items()
        if task.state == "memory" and key_split(key) == "hinge-load"
    )


def _as_text(loss: float | None) -> str:
    """Return the loss as text. Dask's worker table would add up numbers."""
    return "" if loss is None else f"{loss:.6g}"


class _PrometheusMetrics:
    """The metrics of the workers in this process, as Prometheus collects them."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  only if it is there

        steps, images, loss, resident = (
            GaugeMetricFamily(name, meaning, labels=["worker"])
            for name, meaning in (
                (STEPS, "Training steps per second"),
                (IMAGES, "Images that steps and tasks pass over, per second"),
                (LOSS, "The newest loss of the newest run"),
                (RESIDENT, "Bytes of image shards in memory"),
            )
        )
        for worker, meter in list(_meters.items()):
            labels, (step_rate, image_rate) = [worker.address], meter.rates()
            steps.add_metric(labels, step_rate)
            images.add_metric(labels, image_rate)
            resident.add_metric(labels, resident_bytes(worker))
            if meter.loss is not None:
                loss.add_metric(labels, meter.loss)
        yield from (steps, images, loss, resident)


@cache
def _export_to_prometheus() -> None:
    """Register the metrics with Prometheus's client once per process, if it is installed."""
    try:
        from prometheus_client import REGISTRY  # noqa: PLC0415  Dask does not require it
    except ImportError:
        return
    REGISTRY.register(_PrometheusMetrics())
