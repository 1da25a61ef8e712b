"""Run what a command has planned, and show the record."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flows.services.console import Console

if TYPE_CHECKING:
    from flows.runs.lifecycle import Plan
    from flows.runs.record import FinishedRecord, P, R, RecordHeader


def run_plan(
    flow: "Callable[..., FinishedRecord[P, R]]",
    plan: "Plan[P, R, Any]",
    console: Console,
    cluster: Mapping[str, Any],
) -> "FinishedRecord[P, R]":
    """Run a planned run, if it has not finished, and return its record.

    `cluster` has `workers` and `scheduler` as they were typed. The flow gets the plan itself and
    does not plan again.
    """
    from flows.runs.lifecycle import handed_over
    from flows.services.session import command_session

    if plan.finished:
        return plan.finished
    directory = plan.request.directory
    with command_session(console, **cluster), handed_over(plan):
        return flow(
            plan.store,
            plan.parameters,
            resume=str(directory.path) if directory else "",
            runs=str(plan.request.runs),
            **plan.options,
        )


def show_record(
    console: Console,
    record: "RecordHeader",
    summary: Mapping[str, str],
    table: Iterable[str] = (),
) -> None:
    """Show a record as a command's result: the table, then its run and data, then the summary."""
    from flows.runs.record import to_document

    first = {"run": record.run}
    if record.data:
        first["data"] = record.data.in_words()
    console.result(to_document(record), {**first, **summary}, table)
