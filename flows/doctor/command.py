"""The command `hinge doctor`, which checks an installation and says what to do."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.command_line.completion import complete_store
from flows.command_line.exit_status import EXIT_DONE, EXIT_FAILED
from flows.command_line.options import output_options

if TYPE_CHECKING:
    from flows.doctor.findings import Check, Finding


@click.command()
@click.option(
    "--store",
    metavar="URL",
    shell_complete=complete_store,
    help="Also check this Zarr store: a path or a URL.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Also check this Dask cluster, and that its workers read the store.  [default: the "
    "scheduler in Dask's configuration]",
)
@output_options
def doctor(store: str | None, scheduler: str | None, runs: Path, as_json: bool) -> int:
    """Check this installation, and say what to do about each problem.

    The exit status is 0 if there is no problem, else 1. Warnings are not problems.
    """
    import json

    from flows.doctor.findings import run_checks

    findings = []
    for finding in run_checks(_checks(store, scheduler, runs)):
        findings.append(finding)
        if not as_json:
            click.echo(_line(finding))
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        document = {"problems": problems, "findings": list(map(vars, findings))}
        click.echo(json.dumps(document, indent=2))
    return EXIT_FAILED if problems else EXIT_DONE


def _checks(store: str | None, scheduler: str | None, runs: Path) -> list["Check"]:
    from flows.doctor import machine, packages, services
    from flows.doctor.findings import Check

    return [
        Check("Python", packages.check_python),
        Check("versions", packages.check_versions),
        Check("imports", packages.check_imports),
        Check("places", packages.check_places),
        Check("processor", machine.check_processor),
        Check("memory", machine.check_memory),
        Check("kernel cache", machine.check_cache),
        Check("runs", lambda: machine.check_directory(runs, "--runs")),
        Check("Prefect home", lambda: machine.check_directory(services.prefect_home(), _HOME)),
        Check("ports", lambda: machine.check_ports(services.own_ports())),
        Check("workbench", services.check_workbench),
        Check("Prefect", services.check_prefect),
        Check("store", lambda: services.check_store_here(store)),
        Check("cluster", lambda: services.check_cluster(scheduler, store)),
    ]


_HOME = "PREFECT_HOME"
_NAMES, _LEVELS = 12, 7
"""The widths of the columns."""


def _line(finding: "Finding") -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{finding.level:{_LEVELS}}  {finding.check:{_NAMES}}  {finding.text}{advice}"
