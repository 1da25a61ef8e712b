"""Pictures drawn on the cluster's workers, while the flow goes on.

Matplotlib takes 0.3 s to import and another 0.2 s to draw a figure. On a worker this happens beside
the flow's own work, and a long-lived worker imports it only once. The workers may be on other
machines, so a picture comes back as bytes.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread

from distributed import Client, Future, Worker

from pipeline.cluster.connect import task_group

_PRIORITY = 10  # before the other tasks: a picture is short, and a finished run waits for it

_drawing = Lock()  # Matplotlib is not thread-safe


def dask_setup(_worker: Worker) -> None:
    """Import Matplotlib in a thread when a worker starts (`distributed.worker.preload`)."""
    Thread(target=_import_matplotlib, daemon=True).start()


def _import_matplotlib() -> None:
    import flows.style  # noqa: F401, PLC0415 (in the thread)


def draw_in_task(client: Client, draw: Callable[[Path], None]) -> Future[bytes]:
    """Call `draw(path)` in a task, and return the future of the file's bytes.

    The dashboard shows the task as `hinge-figure`. If `draw` is a function within a function, it is
    sent with the values that it uses.
    """
    key = task_group("hinge-figure"), 0
    drawn: Future[bytes] = client.submit(picture_of, draw, key=key, priority=_PRIORITY)
    return drawn


def picture_of(draw: Callable[[Path], None]) -> bytes:
    """Call `draw(path)`, and return the file's bytes."""
    with tempfile.TemporaryDirectory(prefix="hinge-figure-") as directory:
        path = Path(directory) / "figure.png"
        with _drawing:
            draw(path)
        return path.read_bytes()
