"""Dask's performance report of a command: the dashboard's plots, in one HTML file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, performance_report


@contextmanager
def reporting_performance(client: Client, file: Path | None) -> Iterator[None]:
    """Write a report of the block's tasks to `file`, also if the block fails. None: no report.

    The file contains its scripts, so it can be read without a network. (A browser with a network
    fetches the icon of the page from Dask's site.)
    """
    if file is None:
        yield
    else:
        with client.as_current(), performance_report(filename=str(file), mode="inline"):
            yield
