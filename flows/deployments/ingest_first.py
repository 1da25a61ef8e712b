"""Flows of deployments: the flows of the experiments, which first ingest a store that is missing.

The flow of a deployment has the name of the experiment's flow and one more parameter, `source`. A
run of it is a run of the experiment. If it has to ingest the store first, the ingest is a nested
flow run. Of several runs that miss the same store, one ingests it, and the others wait.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, cleandoc, signature, unwrap
from typing import Any

from prefect import Flow
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings

from flows.ingest.flow import ingest_flow
from flows.runs.flow_parameters import Name
from flows.services.guarded_flow import flow
from flows.services.interruption import run_interruptibly
from flows.services.session import flow_session
from pipeline.inputs.stopping import pause
from storage.claims import refuse_if_claimed
from storage.dataset import store_exists
from storage.errors import ClaimedError
from storage.location import Location
from storage.locks import release, try_lock_path

POLL_SECONDS = 1.0
"""The interval at which a run looks whether another run has ingested the store."""

_SOURCE = Parameter("source", Parameter.POSITIONAL_OR_KEYWORD, default="", annotation=Name)
_DESCRIPTION = (
    "source: The images to ingest first if the store does not exist: `download`, a directory or "
    ".tar.gz of CIFAR-10, or `synthetic:N`; empty to require the store."
)


def ingest_first(experiment: Flow[Any, Any], name: str) -> Flow[Any, Any]:
    """Return the flow of a deployment, given the flow of its experiment.

    `name` is the attribute of `flows.deployments.entrypoints` that holds the flow.
    """
    body: Callable[..., Any] = unwrap(experiment.fn)
    inner = signature(body)
    store, *others = inner.parameters.values()
    outer = inner.replace(parameters=[store, _SOURCE, *others])

    @wraps(body)
    def run(*given: Any, **named: Any) -> Any:
        arguments = outer.bind(*given, **named)
        arguments.apply_defaults()
        values = arguments.arguments
        source = values.pop("source")
        if not source or store_exists(values["store"]):
            return body(**values)
        cluster = {name: values[name] or None for name in ("workers", "scheduler")}

        def work() -> Any:
            with flow_session(**cluster):  # the ingest and the experiment use one cluster
                ingest_or_wait(source, values["store"], values["runs"])
                return body(**values)

        return run_interruptibly(work)

    run.__name__ = run.__qualname__ = name
    run.__module__ = f"{__package__}.entrypoints"
    run.__doc__ = cleandoc(body.__doc__ or "").replace("Args:\n", f"Args:\n    {_DESCRIPTION}\n")
    run.__signature__ = outer  # type: ignore[attr-defined]
    return flow(
        name=experiment.name,
        description=experiment.description,
        flow_run_name=experiment.flow_run_name,
    )(run)


def ingest_or_wait(source: str, store: str, runs: str) -> None:
    """Ingest the store, or wait while another process ingests it.

    Raises DataError if the source cannot be used, and Interrupted on a request to stop.
    """
    location, waits = Location.parse(store), False
    while not store_exists(store):
        try:
            with _turn(location):
                if not store_exists(store):  # another run may have ingested it just now
                    refuse_if_claimed(location)
                    ingest_flow(source, store, runs=runs)
        except ClaimedError as error:
            if not waits:
                get_run_logger().info("waiting for the ingest of another run: %s", error)
            waits = True
            pause(POLL_SECONDS)


@contextmanager
def _turn(location: Location) -> Iterator[None]:
    """Let no other run of this user begin an ingest of the store during the block.

    The claim on the store covers only the writing. Before that, the ingest starts a flow run and
    may download the images, which two runs should not do at the same time.

    Raises ClaimedError if another run has the turn.
    """
    digest = hashlib.sha256(location.url.encode()).hexdigest()[:16]
    path = get_current_settings().home / "hinge" / f"ingest-{digest}.turn"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = try_lock_path(path)
    if descriptor is None:
        raise ClaimedError(f"another run is about to ingest {location}")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        release(descriptor)
