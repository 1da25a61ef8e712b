"""Schedules of deployments, as `hinge serve --schedule` takes them.

sweep=0 3 * * *     at 3 o'clock (UTC) every day
sweep=3600          every 3,600 seconds
"""

import math
from collections.abc import Iterable

from prefect.client.schemas.schedules import CronSchedule
from prefect.schedules import Cron, Interval, Schedule
from pydantic import ValidationError

from flows.deployments.catalogue import CATALOGUE
from pipeline.inputs.errors import PipelineError

SCHEDULABLE = tuple(entry.command for entry in CATALOGUE if entry.needs_store)
"""The deployments that can run without parameters of their own. An ingest cannot."""

SHORTEST_SECONDS = 1.0
"""The shortest interval."""


def parse_schedules(texts: Iterable[str], store: str) -> dict[str, Schedule]:
    """Return the schedule of each command named in the texts; `store` is the default store.

    Raises PipelineError if a text is not NAME=CRON or NAME=SECONDS, or if there is no default store
    for the runs.
    """
    schedules = dict[str, Schedule]()
    for text in texts:
        name, _, when = (part.strip() for part in text.partition("="))
        if name not in SCHEDULABLE or not when:
            raise PipelineError(
                f"a schedule must be NAME=CRON or NAME=SECONDS, such as 'sweep=0 3 * * *', where "
                f"NAME is one of {', '.join(SCHEDULABLE)}, not {text!r}"
            )
        if name in schedules:
            raise PipelineError(f"there are two schedules for {name}; give one")
        schedules[name] = _parse(name, when)
    if schedules and not store:
        raise PipelineError("runs on a schedule need a store; give the default one with --store")
    return schedules


def _parse(name: str, when: str) -> Schedule:
    """Read a number of seconds or a cron expression."""
    try:
        seconds = float(when)
    except ValueError:
        return _cron(name, when)
    if not (math.isfinite(seconds) and seconds >= SHORTEST_SECONDS):
        raise PipelineError(
            f"the interval of {name} must be at least {SHORTEST_SECONDS:g} s, not {when}"
        )
    return Interval(seconds)


def _cron(name: str, when: str) -> Schedule:
    try:
        CronSchedule(cron=when)
    except ValidationError as error:
        raise PipelineError(
            f"the schedule of {name} must be a number of seconds, or a cron expression such as "
            f"'0 3 * * *' (minute, hour, day, month, day of the week), not {when!r}"
        ) from error
    return Cron(when)
