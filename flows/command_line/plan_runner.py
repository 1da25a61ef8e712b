"""Running the plan of a command, and showing the record."""

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
    """Run a planned run unless it has finished, and return its record.

    `cluster` contains the options that `take_cluster` returns. The flow receives the plan and does
    not plan again.
    """
    from flows.command_line.imports_ahead import import_ahead
    from flows.runs.lifecycle import handed_over
    from flows.services.interruption import run_interruptibly
    from flows.services.session import command_session

    if plan.finished:
        return plan.finished
    import_ahead()
    directory = plan.request.directory

    def run() -> "FinishedRecord[P, R]":
        with (
            command_session(
                console, dataset=plan.dataset, load_ahead=plan.uses_all_shards, **cluster
            ),
            handed_over(plan),
        ):
            return flow(
                plan.store,
                plan.parameters,
                resume=str(directory.path) if directory else "",
                runs=str(plan.request.runs),
                **plan.options,
            )

    return run_interruptibly(run)


def show_record(
    console: Console,
    record: "RecordHeader",
    summary: Mapping[str, str],
    table: Iterable[str] = (),
) -> None:
    """Print a record as a command's result: the table, the run, its data, then the summary."""
    from flows.runs.record import to_document

    first = {"run": record.run}
    if record.data:
        first["data"] = record.data.in_words()
    console.result(to_document(record), {**first, **summary}, table)
