"""The catalogue of the deployments: one for each flow, and how Prefect makes it.

This module imports no experiment, so that a command can check names quickly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.location import Location

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Schedule

RUNS_AT_ONCE = 1
"""The number of runs of a deployment that run at the same time.

A run uses all workers, so a second run of the same experiment would only slow the first. It waits
in a queue. A deployment with a schedule has no queue: if its runs took longer than the interval,
the queue would grow without end. There a second run is cancelled."""


@dataclass(frozen=True)
class CatalogueEntry:
    """A flow and its deployment."""

    command: str
    """The command of the experiment, with hyphens instead of spaces: `search-random`."""
    module: str
    flow: str
    """The name of the flow in its module."""
    tags: tuple[str, ...] = ()
    """Tags other than `hinge` and the command."""
    needs_store: bool = True
    """Whether the flow reads a store. Its deployment can ingest the store first."""

    @property
    def name(self) -> str:
        """The name of the deployment, such as `hinge-sweep`."""
        return f"hinge-{self.command}"

    @property
    def entrypoint(self) -> str:
        """The name of the flow in `flows.deployments.entrypoints`."""
        return self.command.replace("-", "_")

    @property
    def import_path(self) -> str:
        """Prefect's entry point of the flow."""
        if not self.needs_store:
            return f"{self.module}.{self.flow}"
        return f"{__package__}.entrypoints.{self.entrypoint}"

    def load(self) -> "Flow[Any, Any]":
        """Import the experiment, and return the flow of the deployment."""
        loaded: Flow[Any, Any] = getattr(
            import_module("flows.deployments.entrypoints"), self.entrypoint
        )
        return loaded

    @property
    def all_tags(self) -> list[str]:
        """The tags of the deployment and of its runs."""
        return ["hinge", self.command, *self.tags]


CATALOGUE = (
    CatalogueEntry("ingest", "flows.ingest.flow", "ingest_flow", needs_store=False),
    CatalogueEntry("train", "flows.train.flow", "train_flow"),
    CatalogueEntry("search-random", "flows.search.flow", "search_random_flow"),
    CatalogueEntry("search-local", "flows.search.flow", "search_local_flow"),
    CatalogueEntry("sweep", "flows.sweep.flow", "sweep_flow"),
    CatalogueEntry("grid", "flows.grid.flow", "grid_flow"),
    CatalogueEntry("check", "flows.check.flow", "check_flow"),
    CatalogueEntry("check-step", "flows.check.step_flow", "check_step_flow"),
    CatalogueEntry("landscape", "flows.landscape.flow", "landscape_flow"),
    CatalogueEntry("panels", "flows.landscape.panels_flow", "panels_flow"),
    CatalogueEntry("reproduce", "flows.reproduce.flow", "reproduce_flow", tags=("benchmark",)),
)


@dataclass(frozen=True)
class Defaults:
    """The default values of the parameters that depend on the machine."""

    runs: Path
    """The directory that contains the runs. It is made absolute."""
    store: str = ""
    """The store, which is made absolute; empty if each run has to name one."""
    source: str = ""
    """The images to ingest if the store does not exist; empty to require the store.

    A path is made absolute."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The default parameters of every deployment.

        Raises DataError if the store cannot be used.
        """
        given = {"runs": str(self.runs.expanduser().absolute())}
        if self.store:
            given["store"] = Location.parse(self.store).url
        if self.source:
            path = Path(self.source).expanduser()
            given["source"] = str(path.absolute()) if path.exists() else self.source
        return given


def make_deployments(
    defaults: Defaults, schedules: Mapping[str, "Schedule"]
) -> list["RunnerDeployment"]:
    """Make the deployments of all flows; `schedules` has the schedule of some, by command.

    Raises DataError if the default store cannot be used.
    """
    from prefect.client.schemas.objects import (  # noqa: PLC0415 (slow to import)
        ConcurrencyLimitConfig,
        ConcurrencyLimitStrategy,
    )
    from prefect.deployments.runner import RunnerDeployment  # noqa: PLC0415
    from prefect.types.entrypoint import EntrypointType  # noqa: PLC0415

    def limit(schedule: "Schedule | None") -> ConcurrencyLimitConfig:
        strategy = ConcurrencyLimitStrategy
        collision = strategy.CANCEL_NEW if schedule else strategy.ENQUEUE
        return ConcurrencyLimitConfig(limit=RUNS_AT_ONCE, collision_strategy=collision)

    return [
        RunnerDeployment.from_flow(
            entry.load(),
            entry.name,
            tags=entry.all_tags,
            parameters=defaults.parameters,
            schedule=schedules.get(entry.command),
            paused=False,  # an earlier `hinge serve` may have paused it
            concurrency_limit=limit(schedules.get(entry.command)),
            version=version("hinge"),
            enforce_parameter_schema=True,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for entry in CATALOGUE
    ]
