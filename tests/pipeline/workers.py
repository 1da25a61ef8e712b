"""Helpers that inspect and kill the workers of a cluster."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from distributed import Client


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until a condition is true, and return its value. Fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)
    return value


def address_of(client: Client) -> str:
    """Return the address of the client's scheduler."""
    return str(client.scheduler_info()["address"])


def process_ids(client: Client) -> dict[str, int]:
    """Return the process id of each worker, by the worker's address."""
    found: dict[str, int] = client.run(os.getpid)
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def busy_with(client: Client, prefix: str) -> list[str]:
    """Return the addresses of the workers that have tasks whose keys start with `prefix`."""
    return [
        address
        for address, keys in client.processing().items()
        if any(str(key).strip("('\"").startswith(prefix) for key in keys)
    ]


def removals(client: Client, address: str) -> list[dict[str, Any]]:
    """Return the scheduler's events for the removal of the worker."""
    events = client.get_events(address)
    return [event for _, event in events if event.get("action") == "remove-worker"]


def held_keys(client: Client) -> set[Any]:
    """Return the keys of the project's results and actors that are on the workers."""

    def actors(dask_worker: Any) -> list[Any]:
        return list(dask_worker.state.actors)

    keys = {*client.who_has(), *(key for own in client.run(actors).values() for key in own)}
    return {key for key in keys if str(key[0]).startswith("hinge-")}


def wait_until_released(client: Client, before: set[Any], seconds: float = 30.0) -> None:
    """Wait until the workers have no new keys. Fail with the state of the keys after `seconds`."""
    deadline = time.monotonic() + seconds
    while (more := held_keys(client) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not more, client.run_on_scheduler(_states, keys=more)


def _states(dask_scheduler: Any, keys: set[Any]) -> dict[str, str]:
    """Return each key's state, dependents and workers, as known to the scheduler."""
    tasks = {key: dask_scheduler.tasks.get(key) for key in keys}
    return {
        str(key): task and f"{task.state}, wanted by {task.who_wants}, stored on {task.who_has}"
        for key, task in tasks.items()
    }


def prefixes(client: Client) -> dict[str, int]:
    """Return the total number of tasks in each row of the dashboard's progress page."""

    def count(dask_scheduler: Any) -> dict[str, int]:
        return {
            name: sum(prefix.state_counts.values())
            for name, prefix in dask_scheduler.task_prefixes.items()
        }

    counted: dict[str, int] = client.run_on_scheduler(count)
    return counted
