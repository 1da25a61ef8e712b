"""What a run tells while it runs: to the terminal, to its page in Prefect and to the Dask cluster.

The log of the flow run says what the terminal says. The Dask scheduler's topic `hinge` has the
same as events, for pages of the dashboard. Prefect's events `hinge.run.done`, `hinge.run.diverged`
and so on, one for each status in which a run can end, are there for automations.

A run without a flow run, as in a test of its body, tells only the terminal and the cluster.
"""

import contextvars
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from distributed import Client
from prefect import runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.utilities.urls import url_for

from flows.runs import artifacts
from flows.runs.record import FinishedRecord, FlowRunReference, plain
from flows.services.console import Console
from flows.services.drawing import draw_in_task, picture_of
from flows.services.progress import Advance, Reading, Sink, watch_progress
from pipeline.cluster.waiting import in_slices, wait_for
from pipeline.journals.atomic_file import replace_file

TOPIC = "hinge"
"""The topic of the events on the Dask scheduler."""

_EVENT_SECONDS = 0.5
_LOG_SECONDS = 5.0
_ARTIFACT_SECONDS = 5.0

_log = logging.getLogger(__name__)


def current_flow_run() -> FlowRunReference | None:
    """Return the id and the page of the flow run of this code; None outside of a flow run."""
    flow_run = runtime.flow_run.id
    if flow_run is None:
        return None
    return FlowRunReference(id=flow_run, url=url_for("flow-run", obj_id=flow_run))


@dataclass(frozen=True)
class Subject:
    """The run that a report is about."""

    run: str
    command: str
    data: str
    name: str
    """What is done, such as `gd 200 x 1e-7`."""
    series: str
    """The name of the run's experiment and data, which begins the keys of its artifacts. A key
    that runs share has a history in Prefect."""


class RunReport:
    """The report of one run, from its start to its end."""

    def __init__(self, subject: Subject, client: Client, console: Console) -> None:
        self._subject, self._client, self._console = subject, client, console
        self._flow_run = current_flow_run()
        self._logger = get_run_logger() if self._flow_run else _log
        self._outcome = ""
        self._background = ThreadPoolExecutor(1, thread_name_prefix="hinge-report")
        self._pictures = list[Future[None]]()

    def note(self, text: str) -> None:
        """Print a note and add it to the log."""
        self._console.note(text)
        self._logger.info(text)

    def print(self, text: str) -> None:
        """Print details that are too many for the log."""
        self._console.note(text)

    @contextmanager
    def progress(self, what: str, total: int | None, done: int = 0) -> Iterator[Advance]:
        """Show the progress of the block; `done` is the amount that was done before it.

        A block of more than five seconds gets lines in the log and a progress artifact.
        """
        sinks = [
            Sink(self._send_progress, _EVENT_SECONDS),
            Sink(lambda reading: self._logger.info(reading.in_words()), _LOG_SECONDS, _LOG_SECONDS),
        ]
        if self._flow_run and total is not None:
            artifact = _ProgressArtifact(
                artifacts.key_of(f"{self._subject.series}: {what} progress")
            )
            sinks.append(Sink(artifact.show, _ARTIFACT_SECONDS, _ARTIFACT_SECONDS))
        with (
            self._console.bar(what, total) as bar,
            watch_progress(what, total, [*bar, *sinks], done) as advance,
        ):
            yield advance

    def started(self, directory: Path, data: str, parameters: Mapping[str, Any]) -> None:
        """Say which run has started, on which data, and where it can be watched."""
        dashboard, directory = self._client.dashboard_link, directory.absolute()
        for line in (
            f"run {self._subject.run} in {directory}",
            f"data: {self._subject.data}, {data}",
            f"Dask dashboard: {dashboard}",
        ):
            self._logger.info(line)
        self._send(
            "started",
            name=self._subject.name,
            command=self._subject.command,
            data=self._subject.data,
            parameters=parameters,
            directory=str(directory),
            flow_run_url=self._flow_run.url if self._flow_run else None,
        )
        links = {
            "Dask dashboard": dashboard,
            "loss curves and runs": dashboard.replace("/status", "/hinge"),
            "directory": str(directory),
        }
        words = f"Links; run {self._subject.run}"
        self.publish(artifacts.links, f"{self._subject.series}: run", links, words)

    def publish(self, create: Callable[..., None], *given: Any) -> None:
        """Create an artifact in the background: `create(*given)`. It exists when the run ends."""
        if self._flow_run:
            context = contextvars.copy_context()
            self._background.submit(context.run, _create, create, *given)

    def draw(self, path: Path, draw: Callable[[Path], None]) -> None:
        """Draw a picture (PNG) on a worker, with `draw` (see `flows.services.drawing`).

        If that fails, draw it in this process: a lost worker is no reason to lose the run. The
        picture is at `path` when `wait_for_pictures` returns. An artifact that is published after
        this call can show it.
        """
        drawn = draw_in_task(self._client, draw)
        context = contextvars.copy_context()

        def write() -> None:
            try:
                content = wait_for(drawn)
            except Exception:
                _log.debug("a picture is drawn in this process", exc_info=True)
                content = picture_of(draw)
            with replace_file(path) as file:
                file.write(content)

        self._pictures.append(self._background.submit(context.run, write))

    def wait_for_pictures(self) -> None:
        """Wait until all pictures are written. Raises the first error of those that failed."""
        for picture in self._pictures:
            in_slices(picture.result, picture.done)

    def finished(self, record: FinishedRecord[Any, Any]) -> None:
        """Add the result to the log."""
        self._outcome = record.in_words()
        values = plain(record.result)
        scalars = (str, int, float)
        lines = [f"  {name}: {value}" for name, value in values.items() if type(value) in scalars]
        self._logger.info("\n".join([f"result: {self._outcome}", *lines]))

    def ended(self, status: str, explanation: str | None = None) -> None:
        """Say how the run has ended. `explanation` is the error, or how to resume the run."""
        outcome = self._outcome or explanation or ""
        self._logger.info(f"{self._subject.run}: {'; '.join(filter(None, (status, explanation)))}")
        self._send("finished", status=status, result=outcome)
        if self._flow_run:
            resource = {
                "prefect.resource.id": f"hinge.run.{self._subject.run}",
                "prefect.resource.name": self._subject.run,
                "hinge.command": self._subject.command,
                "hinge.data": self._subject.data,
            }
            payload = {"status": status, "result": outcome}
            emit_event(f"hinge.run.{status.replace(' ', '-')}", resource, payload=payload)
        self._background.shutdown(cancel_futures=not self._outcome)

    def _send_progress(self, reading: Reading) -> None:
        values = reading._asdict()
        del values["words"]
        self._client.log_event(TOPIC, {"event": "progress", "run": self._subject.run, **values})

    def _send(self, event: str, **values: Any) -> None:
        """Send an event to the Dask scheduler, unless it is gone."""
        try:
            self._client.log_event(TOPIC, {"event": event, "run": self._subject.run, **values})
        except Exception:
            _log.debug("the scheduler takes no events", exc_info=True)


def _create(create: Callable[..., None], *given: Any) -> None:
    try:
        create(*given)
    except Exception as error:  # an artifact is not worth the end of a run
        _log.warning("an artifact could not be created: %s", error)


class _ProgressArtifact:
    """An artifact that is created with the first reading and then updated."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None

    def show(self, reading: Reading) -> None:
        percent = 100 * reading.done / reading.total if reading.total else 0.0
        if self._id is None:
            created = create_progress_artifact(percent, self._key, reading.in_words())
            assert isinstance(created, UUID)  # a coroutine only inside an event loop
            self._id = created
        else:
            update_progress_artifact(self._id, percent, reading.in_words())
