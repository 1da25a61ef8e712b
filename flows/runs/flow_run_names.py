"""How Prefect's flow runs are named."""

from pathlib import Path

from prefect import runtime

from storage.dataset import open_dataset
from storage.errors import DataError


def flow_run_name(what: str) -> str:
    """Name the current flow run by what it does and its data, or by the run that it resumes."""
    given = runtime.flow_run.parameters
    if given["resume"]:
        return f"{Path(given['resume']).name}, resumed"
    return f"{what} on {data_name(given['store'])}"


def data_name(store: str) -> str:
    """Return the name of the data in a store, or the store's own name if it cannot be opened."""
    try:
        return open_dataset(store).name
    except DataError:
        return store
