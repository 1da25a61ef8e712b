"""The option `--performance-report`, and the file that it writes."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

from flows.cli import hinge
from flows.services.performance_report import reporting_performance


def fail_in_a_reported_block(client: Client, file: Path) -> None:
    with reporting_performance(client, file):
        client.submit(increment, 1, key=("hinge-reported", 0)).result()
        raise ZeroDivisionError


def increment(number: int) -> int:
    return number + 1


def test_report_shows_the_tasks_and_needs_no_network(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        with reporting_performance(client, None):
            pass
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ZeroDivisionError):
            fail_in_a_reported_block(client, file)
    report = file.read_text()
    assert "hinge-reported" in report
    fetched = re.findall(r'<(?:script|link rel="stylesheet")[^>]+(?:src|href)="[^"]+"', report)
    assert fetched == []


def commands(group: click.Group) -> list[click.Command]:
    return [
        each
        for command in group.commands.values()
        for each in (commands(command) if isinstance(command, click.Group) else [command])
    ]


def test_every_command_that_uses_a_cluster_has_the_option() -> None:
    on_cluster = [
        {option.name for option in command.params}
        for command in commands(hinge)
        if "scheduler" in {option.name for option in command.params}
        and command.name not in {"serve", "doctor"}  # they run no tasks of their own
    ]
    assert len(on_cluster) >= 9
    assert all("performance_report" in options for options in on_cluster)


def test_report_into_a_missing_directory_is_refused() -> None:
    arguments = ["sweep", "--store", "x.zarr", "--performance-report", "/missing/report.html"]
    refused = CliRunner().invoke(hinge, arguments)
    assert refused.exit_code == 2
    assert "there is no directory /missing" in refused.output
