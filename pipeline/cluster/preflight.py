"""Checks of a cluster that hinge did not start, before work goes to it.

Dask sends a task's function as the name of its module. A scheduler that cannot import the module
rejects the task. A worker that cannot import it ends itself, and so does every other worker that
Dask then tries. Other versions of the packages may change a result without an error. So every
member of the cluster, the scheduler included, is first asked what is installed there. The question
is a function that Dask sends by value, so that it can be answered without hinge.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client

from pipeline.inputs.errors import PipelineError
from storage.dataset import Dataset, open_dataset
from storage.errors import DataError

CHECK_SECONDS = 8.0
"""Seconds to wait for the answers of all members of a cluster."""

PACKAGES = ("pipeline", "storage", "kernels", "flows")
"""The packages whose functions run on the cluster. `flows` has those that draw pictures."""

DISTRIBUTIONS = ("hinge", "numpy", "numba", "dask", "distributed", "zarr")
"""The distributions whose versions must agree. Results or Dask's messages depend on them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installation:
    """What one process of a cluster would import."""

    python: str
    """The version, such as `3.11.7`."""
    executable: str
    versions: Mapping[str, str | None]
    """The version of each of `DISTRIBUTIONS`; None if it is not installed."""
    packages: Mapping[str, str | None]
    """The directory of each of `PACKAGES`; None if Python finds none."""
    home: str | None
    """The directory of `hinge_command`, where hinge's packages should be; None if not found."""
    sources: str
    """A digest of the source files of the packages."""


def check_members(client: Client) -> None:
    """Check what is installed on the scheduler and on every worker. Import nothing there.

    Raises PipelineError if one of them cannot import hinge, finds another package of the same name,
    has other versions or other sources than this process, or does not answer in `CHECK_SECONDS`.
    """
    own = installation_here()
    address = _address(client)
    scheduler = _ask_scheduler(client)
    if problem := find_problem(own, scheduler):
        raise PipelineError(f"the scheduler at {address} cannot be used: {problem}")
    workers = _ask_workers(client)
    problems = {worker: find_problem(own, there) for worker, there in workers.items()}
    bad = {worker: problem for worker, problem in problems.items() if problem}
    if bad:
        problem, _ = Counter(bad.values()).most_common(1)[0]
        example = next(worker for worker, each in bad.items() if each == problem)
        raise PipelineError(
            f"{len(bad)} of {len(workers)} workers of {address} cannot be used "
            f"({example}): {problem}"
        )


def check_store(client: Client, dataset: Dataset) -> None:
    """Check that every worker can open the data set's store, and finds the same data there.

    A worker that takes longer than `CHECK_SECONDS` is not refused: the first import of packages
    from a network drive may take that long, and reading the images shows an error, too.

    Raises PipelineError otherwise.
    """
    try:
        found = _run(client, _open_store, dataset.url)
    except TimeoutError:
        _log.warning("not all workers have opened %s in %g s", dataset.url, CHECK_SECONDS)
        return
    for worker, fingerprint in found.items():
        if isinstance(fingerprint, Exception):
            problem, _, _ = str(fingerprint).partition("; ")  # then follows advice for other cases
            raise PipelineError(
                f"worker {worker} cannot read the store: {problem}; give all workers access to it "
                "under the same path or URL"
            )
        if fingerprint != dataset.fingerprint:
            raise PipelineError(
                f"worker {worker} finds other data at {dataset.url} (its fingerprint is "
                f"{fingerprint[:12]}, not {dataset.fingerprint[:12]}); give all workers access to "
                "the same store under this path or URL"
            )


def worker_versions(client: Client) -> dict[str, str]:
    """Return the versions of Python and of `DISTRIBUTIONS` on the workers.

    If workers differ, the versions are joined with commas.

    Raises PipelineError if not all workers answer in `CHECK_SECONDS`.
    """
    workers = _ask_workers(client).values()
    found = {"python": {worker.python for worker in workers}}
    for name in DISTRIBUTIONS:
        found[name] = {worker.versions[name] or "none" for worker in workers}
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def find_problem(own: Installation, there: Installation) -> str | None:
    """Return why a process with the installation `there` cannot work for this one, or None.

    The answer also says what to do.
    """
    version = own.versions["hinge"]
    for name, found in there.packages.items():
        if found is None:
            return (
                f"its Python ({there.executable}) finds no package {name!r} of hinge; install "
                f"hinge {version} there"
            )
        if there.home and found != f"{there.home}/{name}":
            return (
                f"it finds another package {name!r} at {found} before hinge's own in {there.home}; "
                "rename that package, or remove its directory from PYTHONPATH"
            )
    if different := _different_versions(own, there):
        return f"it has {different}; install the same versions as here"
    if own.sources != there.sources:
        return (
            f"its hinge {there.versions['hinge'] or ''} in {there.home} has other source files "
            f"than hinge {version} in {own.home} here; install the same"
        )
    return None


def _different_versions(own: Installation, there: Installation) -> str:
    """Name the versions that must agree and do not, such as `numpy 2.3.5 (here 2.4.6)`."""
    pairs = {"Python": (_minor(there.python), _minor(own.python))}
    for name in DISTRIBUTIONS[1:]:  # hinge itself is compared by its sources
        pairs[name] = (there.versions[name] or "none", own.versions[name] or "none")
    return ", ".join(
        f"{name} {other} (here {mine})" for name, (other, mine) in pairs.items() if other != mine
    )


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def installation_here() -> Installation:
    """Return what this process imports."""
    return Installation(**_inspection()(PACKAGES, DISTRIBUTIONS))


def _inspection() -> Callable[..., dict[str, Any]]:
    """Return a function that describes the installation of the process that calls it.

    Dask sends it by value, because it is defined in a function. It may only use Python's own
    modules.
    """

    def inspect(packages: tuple[str, ...], distributions: tuple[str, ...]) -> dict[str, Any]:
        import hashlib  # noqa: PLC0415 (imported where the function runs)
        import platform  # noqa: PLC0415
        import sys  # noqa: PLC0415
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415
        from importlib.util import find_spec  # noqa: PLC0415
        from pathlib import Path  # noqa: PLC0415

        def directory(name: str) -> Path | None:
            spec = find_spec(name)
            if spec is None:
                return None
            places = spec.submodule_search_locations
            place = next(iter(places)) if places else spec.origin
            return Path(place).resolve() if place else None

        def installed(name: str) -> str | None:
            try:
                return version(name)
            except PackageNotFoundError:
                return None

        found = {name: directory(name) for name in packages}
        digest = hashlib.sha256()
        for name, place in found.items():
            files = [path for path in place.rglob("*.py") if path.is_file()] if place else []
            for path in sorted(files):
                digest.update(f"{name}/{path.relative_to(place or path).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        command = directory("hinge_command")
        return {
            "python": platform.python_version(),
            "executable": sys.executable,
            "versions": {name: installed(name) for name in distributions},
            "packages": {name: place and str(place) for name, place in found.items()},
            "home": command and str(command.parent),
            "sources": digest.hexdigest(),
        }

    return inspect


def _ask_workers(client: Client) -> dict[str, Installation]:
    answers = _answers(client, lambda: _run(client, _inspection(), PACKAGES, DISTRIBUTIONS))
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            raise PipelineError(f"worker {worker} cannot be used: {answer}") from answer
    return {worker: Installation(**answer) for worker, answer in sorted(answers.items())}


def _ask_scheduler(client: Client) -> Installation:
    answer = _answers(
        client,
        lambda: client.sync(
            client.run_on_scheduler,
            _inspection(),
            PACKAGES,
            DISTRIBUTIONS,
            callback_timeout=CHECK_SECONDS,
        ),
    )
    return Installation(**answer)


def _address(client: Client) -> str:
    scheduler: Any = client.scheduler
    return str(scheduler.address)


def _answers(client: Client, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except TimeoutError as error:
        raise PipelineError(
            f"the cluster of {_address(client)} did not answer in {CHECK_SECONDS:g} s; "
            "check its workers, and restart those that hang"
        ) from error


def _run(client: Client, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function on every worker, outside of tasks. Return the results or errors by worker.

    Raises TimeoutError if not all workers answer in `CHECK_SECONDS`.
    """
    answers: dict[str, Any] = client.sync(
        client.run, function, *arguments, on_error="return", callback_timeout=CHECK_SECONDS
    )
    return answers


async def _open_store(url: str) -> str | DataError:
    """Return the fingerprint of the store at `url`, or the error that opening it raises.

    The store is opened in a thread, so that the worker can answer the scheduler meanwhile.
    """
    try:
        return (await asyncio.to_thread(open_dataset, url)).fingerprint
    except DataError as error:
        return error
