"""The interface between the mathematics and the cluster: calling one function on every shard.

A `MapShards` calls a function on every shard of a split and returns partial sums. The calls run in
this process (`run_in_process`), in Dask tasks (`pipeline.cluster.tasks`) or in actors on the
workers (`pipeline.cluster.actors`). Sums are exact, so the results are bit-identical.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, Protocol, Self, TypeVar

from pipeline.cluster.shards import Shard


class Summable(Protocol):
    """A partial sum. The total is bit-identical in whichever order partial sums are combined."""

    def combine(self, other: Self, /) -> Self:
        """Return the sum of both."""
        ...


I = TypeVar("I")  # noqa: E741
S = TypeVar("S", bound=Summable)
F = TypeVar("F", bound=Callable[..., Any])


class MapShards(Protocol):
    """A callable that calls a function on every shard of a split."""

    def __call__(self, function: Callable[[Shard, I], S], inputs: I, /) -> Iterable[S]:
        """Call `function(shard, inputs)` for every shard. Return partial sums of the total.

        `function` must be importable by name and have a dashboard name (`shown_as`). It may keep
        state only in `shard.memory`.
        """
        ...


def sum_over_shards(map_shards: MapShards, function: Callable[[Shard, I], S], inputs: I) -> S:
    """Return the sum of `function(shard, inputs)` over all shards."""
    return reduce(lambda a, b: a.combine(b), map_shards(function, inputs))


def run_in_process(shards: Sequence[Shard]) -> MapShards:
    """Return a `MapShards` over shards in this process, one after another."""

    def map_shards(function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        return [function(shard, inputs) for shard in shards]

    return map_shards


def shown_as(name: str) -> Callable[[F], F]:
    """Return a decorator that sets the name under which the Dask dashboard shows a function.

    Examples:
        >>> @shown_as("hinge-evaluation")
        ... def evaluate(shard, inputs): ...
        >>> dashboard_name(evaluate)
        'hinge-evaluation'
    """

    def mark(function: F) -> F:
        function.dashboard_name = name  # type: ignore[attr-defined]
        return function

    return mark


def dashboard_name(function: Callable[..., Any]) -> str:
    """Return the name that `shown_as` gave to a function."""
    name: str = function.dashboard_name  # type: ignore[attr-defined]
    return name
