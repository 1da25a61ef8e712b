"""The flows of the deployments, by the names that Prefect's entry points use.

Prefect imports one of them in every process that runs a deployment. A flow is therefore made when
it is first used, so that the process imports only its own experiment.
"""

from importlib import import_module
from typing import Any

from prefect import Flow

from flows.deployments.catalogue import CATALOGUE
from flows.deployments.ingest_first import ingest_first

_ENTRIES = {entry.entrypoint: entry for entry in CATALOGUE}


def __getattr__(name: str) -> Flow[Any, Any]:
    """Return the flow of the deployment with the entry point `name`."""
    if name not in _ENTRIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    entry = _ENTRIES[name]
    experiment = getattr(import_module(entry.module), entry.flow)
    made: Flow[Any, Any] = ingest_first(experiment, name) if entry.needs_store else experiment
    globals()[name] = made
    return made
