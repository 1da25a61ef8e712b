"""What tests do to the workers of a cluster: look at them, and kill them."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from distributed import Client


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a condition and return what it gave; fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def address_of(client: Client) -> str:
    """Return the address of the client's scheduler."""
    return str(client.scheduler_info()["address"])


def process_ids(client: Client) -> dict[str, int]:
    """Return the process of each worker by its address."""
    found: dict[str, int] = client.run(os.getpid)
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def busy_with(client: Client, prefix: str) -> list[str]:
    """Return the addresses of the workers that have a task of a prefix to do."""
    return [
        address
        for address, keys in client.processing().items()
        if any(str(key).strip("('\"").startswith(prefix) for key in keys)
    ]


def removals(client: Client, address: str) -> list[dict[str, Any]]:
    """Return what the scheduler wrote down when it lost the worker."""
    events = client.get_events(address)
    return [event for _, event in events if event.get("action") == "remove-worker"]


def held(client: Client) -> set[Any]:
    """Return the keys of the project's results that workers hold, and of their actors."""

    def actors(dask_worker: Any) -> list[Any]:
        return list(dask_worker.state.actors)

    keys = {*client.who_has(), *(key for own in client.run(actors).values() for key in own)}
    return {key for key in keys if str(key[0]).startswith("hinge-")}


def let_go(client: Client, before: set[Any], seconds: float = 30.0) -> None:
    """Wait until workers hold nothing that they did not hold before; else say what it is."""
    deadline = time.monotonic() + seconds
    while (more := held(client) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not more, client.run_on_scheduler(_states, keys=more)


def _states(dask_scheduler: Any, keys: set[Any]) -> dict[str, str]:
    """Say what the scheduler knows of the keys: their state, who wants and who holds them."""
    tasks = {key: dask_scheduler.tasks.get(key) for key in keys}
    return {
        str(key): task and f"{task.state}, wanted by {task.who_wants}, held by {task.who_has}"
        for key, task in tasks.items()
    }


def prefixes(client: Client) -> dict[str, int]:
    """Return how many tasks each row of the dashboard's progress page has ever had."""

    def count(dask_scheduler: Any) -> dict[str, int]:
        return {
            name: sum(prefix.state_counts.values())
            for name, prefix in dask_scheduler.task_prefixes.items()
        }

    counted: dict[str, int] = client.run_on_scheduler(count)
    return counted
