"""Pictures are drawn in Dask tasks on the workers, by code that does not import Prefect."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from flows.runs.report import RunReport, Subject
from flows.services.console import Console
from flows.services.drawing import draw_in_task

ROOT = Path(__file__).parents[2]
FIGURES = sorted(path for path in (ROOT / "flows").rglob("*figures.py"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def report(client: Client) -> RunReport:
    return RunReport(
        Subject("run", "train", "data", "gd", "train data"), client, Console(quiet=True)
    )


def fail(path: Path) -> None:
    path.write_text("half a picture")
    raise ZeroDivisionError


def test_picture_is_the_file_that_a_worker_wrote(client: Client) -> None:
    def draw(path: Path) -> None:
        path.write_text(str(os.getpid()))

    drawn = draw_in_task(client, draw)
    assert "hinge-figure-" in str(drawn.key)
    [worker] = client.run(os.getpid).values()
    assert int(drawn.result()) == worker


def test_picture_replaces_the_older_one_once_it_is_drawn(report: RunReport, tmp_path: Path) -> None:
    picture = tmp_path / "loss.png"
    picture.write_text("older")

    def draw(path: Path) -> None:
        path.write_text("newer")

    report.draw(picture, draw)
    report.wait_for_pictures()
    assert picture.read_text() == "newer"
    assert list(tmp_path.iterdir()) == [picture]


def test_error_of_a_picture_is_raised_and_leaves_the_older_one(
    report: RunReport, tmp_path: Path
) -> None:
    picture = tmp_path / "loss.png"
    picture.write_text("older")
    report.draw(picture, fail)
    with pytest.raises(ZeroDivisionError):
        report.wait_for_pictures()
    assert picture.read_text() == "older"
    assert list(tmp_path.iterdir()) == [picture]


def test_picture_that_the_cluster_fails_to_draw_is_drawn_here(
    report: RunReport, tmp_path: Path
) -> None:
    here = os.getpid()

    def draw(path: Path) -> None:
        if os.getpid() != here:
            raise OSError("the worker is lost")
        path.write_text("drawn here")

    picture = tmp_path / "loss.png"
    report.draw(picture, draw)
    report.wait_for_pictures()
    assert picture.read_text() == "drawn here"


def test_two_pictures_are_never_drawn_at_the_same_time_in_one_process(
    report: RunReport, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"

    def draw(path: Path) -> None:
        with seen.open("a") as file:
            print("in", file=file, flush=True)
            time.sleep(0.2)
            print("out", file=file, flush=True)
        path.write_text("drawn")

    for number in range(3):
        report.draw(tmp_path / f"{number}.png", draw)
    report.wait_for_pictures()
    assert seen.read_text().split() == ["in", "out"] * 3


@pytest.mark.parametrize("figures", FIGURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_figures_can_be_drawn_without_prefect(figures: Path) -> None:
    module = ".".join(figures.relative_to(ROOT).with_suffix("").parts)
    code = f"import sys, {module}; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
