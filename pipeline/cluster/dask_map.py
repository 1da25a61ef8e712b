"""Python's `map` over a Dask cluster, for functions that have a `map` argument.

For example, this call computes blocks of coordinates in tasks, on whichever workers are free:

    numerical_gradient(f, x, map=dask_map(client))
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from distributed import Client

from pipeline.cluster.connect import task_group
from pipeline.cluster.tasks import Sealed, release
from pipeline.cluster.waiting import wait_for


def dask_map(
    client: Client, name: str = "hinge-map"
) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """Return a `map` over one iterable that yields each result, in order, as soon as it is ready.

    The function is sent to the cluster once, and each item is one task. The dashboard shows the
    tasks as `name`. All items are submitted at once. An error that the function raises is raised
    again when the result is read.
    """

    def map_items(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        sent = client.submit(Sealed, function, key=(task_group(f"{name}-inputs"), 0))
        group = task_group(name)
        futures = [
            client.submit(_call, sent, Sealed(item), key=(group, number))
            for number, item in enumerate(items)
        ]
        return _results(futures, sent)

    return map_items


def _results(futures: Sequence[Any], sent: Any) -> Iterator[Any]:
    try:
        for future in futures:
            yield wait_for(future)
    finally:
        release(*futures, sent)


def _call(function: Sealed[Callable[[Any], Any]], item: Sealed[Any]) -> Any:
    return function.inputs(item.inputs)
