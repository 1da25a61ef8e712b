"""The runs on a cluster, as the scheduler learns of them from events of the topic `hinge`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOPIC = "hinge"
"""The topic under which commands report the start, the progress and the end of a run."""

MAX_RUNS = 50
"""How many runs are remembered."""

MAX_POINTS = 2_000
"""How many points of a run's loss curve are remembered. Beyond, every second one is dropped."""


@dataclass
class RunView:
    """What the dashboard shows of a run."""

    run: str
    started: float
    """Seconds since 1970."""
    number: int = 0
    """How many runs started before it. It chooses the colour of the run's curve."""
    heard: float = 0.0
    """When the newest event came, in seconds since 1970. A killed run stays "running"."""
    name: str = ""
    """What is done, such as `gd 200 x 1e-7`."""
    command: str = ""
    data: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    directory: str = ""
    flow_run_url: str = ""
    what: str = ""
    done: int = 0
    total: int | None = None
    loss: float | None = None
    rate: float | None = None
    """Steps, trials or coordinates per second."""
    status: str = "running"
    result: str = ""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Steps done and loss."""


class RunHistory:
    """The newest runs, in the order of their starts."""

    def __init__(self) -> None:
        self._runs: dict[str, RunView] = {}
        self._started = 0

    @property
    def runs(self) -> list[RunView]:
        """The runs, the oldest first."""
        return list(self._runs.values())

    def record(self, message: Any, now: float) -> None:
        """Take an event into account. Ignore what is not an event of a run."""
        if not isinstance(message, dict) or not isinstance(message.get("run"), str):
            return
        run, event = message["run"], message.get("event")
        if event == "started":
            self._runs.pop(run, None)  # a resumed run is the newest one
        if run not in self._runs:
            self._runs[run] = RunView(run, started=now, number=self._started)
            self._started += 1
        view = self._runs[run]
        view.heard = now
        if event == "started":
            view.name = str(message.get("name") or "")
            view.command = str(message.get("command") or "")
            view.data = str(message.get("data") or "")
            view.parameters = dict(message.get("parameters") or {})
            view.directory = str(message.get("directory") or "")
            view.flow_run_url = str(message.get("flow_run_url") or "")
        elif event == "progress":
            self._progress(view, message)
        elif event == "finished":
            view.status = str(message.get("status") or "done")
            view.result = str(message.get("result") or "")
        while len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    @staticmethod
    def _progress(view: RunView, message: Mapping[str, Any]) -> None:
        view.what = str(message.get("what") or "")
        view.done = int(message.get("done") or 0)
        view.total, view.loss, view.rate = (message.get(key) for key in ("total", "loss", "rate"))
        if view.loss is not None:
            view.curve.append((view.done, float(view.loss)))
        if len(view.curve) > MAX_POINTS:
            view.curve = view.curve[:-1:2] + view.curve[-1:]
