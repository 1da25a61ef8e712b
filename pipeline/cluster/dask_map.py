"""Python's `map`, over a Dask cluster: what a function of many calls is given as its `map`.

    numerical_gradient(f, x, map=dask_map(client))

takes blocks of coordinates as tasks wherever a worker is free.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distributed import Client

from pipeline.cluster.connect import task_group
from pipeline.cluster.tasks import Sealed


def dask_map(
    client: Client, name: str = "hinge-map"
) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """Return a map of one iterable, whose results come in order, each as soon as it is there.

    The function is sent to the cluster once, and each item to one task; the dashboard shows
    them as `name`. All items are submitted at once. An error of the function is raised here.
    """

    def map_items(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        sent = client.submit(Sealed, function, key=(task_group(f"{name}-inputs"), 0))
        group = task_group(name)
        futures = [
            client.submit(_call, sent, Sealed(item), key=(group, number))
            for number, item in enumerate(items)
        ]
        return (future.result() for future in futures)

    return map_items


def _call(function: Sealed[Callable[[Any], Any]], item: Sealed[Any]) -> Any:
    return function.inputs(item.inputs)
