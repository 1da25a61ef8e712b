"""The pages of a real scheduler's dashboard."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bokeh.client import pull_session
from bokeh.models import ColumnDataSource
from distributed import Client, LocalCluster

from pipeline.cluster.actors import Actors
from pipeline.cluster.dashboard.groups import lay_out
from pipeline.cluster.dashboard.plugin import HingeDashboard, add_to_dashboard
from pipeline.cluster.dashboard.run_history import MAX_POINTS, MAX_RUNS, RunHistory
from pipeline.cluster.dashboard.runs import LossCurves
from pipeline.cluster.dashboard.worker_metrics import IMAGES
from pipeline.cluster.placement import PlacedDataset
from pipeline.ingest.write_shards import ingest
from pipeline.objective import Objective
from pipeline.search.random_search import RandomSearch, random_search
from storage.dataset import Dataset
from storage.ingest import plan_ingest
from storage.schema import Layout
from storage.sources import open_source
from tests.pipeline.workers import until

STARTED = {
    "event": "started",
    "run": "calm-otter",
    "name": "gd 200 x 1e-7",
    "command": "train",
    "data": "cifar.zarr",
    "parameters": {"steps": 200, "step_size": 1e-7},
    "directory": "/runs/calm-otter",
    "flow_run_url": "http://127.0.0.1:4200/runs/flow-run/1",
}
PROGRESS = {
    "event": "progress",
    "run": "calm-otter",
    "what": "train",
    "done": 50,
    "total": 200,
    "loss": 8.5,
    "rate": 12.5,
}
FINISHED = {"event": "finished", "run": "calm-otter", "status": "done", "result": "loss 7.1"}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        add_to_dashboard(client)
        yield client


@pytest.fixture(scope="module")
def dataset(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("store")
    source = open_source("synthetic:2000", workdir=directory)
    return ingest(client, plan_ingest(source, str(directory / "data.zarr"), Layout(701)))


def get(address: str) -> bytes:
    """Request a page. Raises HTTPError unless its status is 200."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())


def address_of(client: Client, path: str) -> str:
    return str(client.dashboard_link).replace("/status", path)


def columns(client: Client, path: str) -> list[dict[str, Any]]:
    """Return the data that a browser gets with a page, over its websocket."""
    session = pull_session(url=address_of(client, path))
    try:
        return [
            dict(source.data)
            for source in session.document.select({"type": ColumnDataSource})
            if isinstance(source, ColumnDataSource)
        ]
    finally:
        session.close()


@pytest.mark.slow
def test_groups_are_shown_while_a_random_search_runs(client: Client, dataset: Dataset) -> None:
    blocks = [(2 * i, 2 * i + 1) for i in range(4)]
    names = set[str]()
    for _ in random_search(PlacedDataset(client, dataset), RandomSearch(trials=8), blocks):
        for path in ("/groups", "/individual-groups"):
            get(address_of(client, path))
        for data in columns(client, "/groups"):
            names |= set(data.get("name", ()))
        assert sum(client.run(images_per_second).values()) > 0  # although it takes no steps
    get(address_of(client, "/groups"))
    assert names >= {"hinge-load", "hinge-inputs", "hinge-draw-weights", "hinge-random-search"}


def images_per_second(dask_worker: Any) -> float:
    metric = dask_worker.metrics.get(IMAGES)
    return float(metric(dask_worker)) if metric else 0.0


def reported(dask_worker: Any) -> dict[str, Any]:
    return {
        name: metric(dask_worker)
        for name, metric in dask_worker.metrics.items()
        if name.startswith("hinge_")
    }


def test_workers_report_steps_images_loss_and_resident_bytes(
    client: Client, dataset: Dataset
) -> None:
    bytes_of_an_image = 32 * 32 * 3 + 1  # with its label
    with Actors(PlacedDataset(client, dataset), shown_as="hinge-gd") as actors:
        objective = Objective(actors, dataset.mean)
        started = time.monotonic()
        losses = [objective(np.full((10, 3073), scale)).loss for scale in (1e-4, 1e-3)]
        seconds = time.monotonic() - started
        of_workers = list(client.run(reported).values())
        resident = [each["hinge_resident_bytes"] for each in of_workers]
        assert sum(resident) >= 2000 * bytes_of_an_image
        assert sum(resident) < 2100 * bytes_of_an_image
        assert all(each["hinge_steps_per_second"] > 0 for each in of_workers)
        assert sum(each["hinge_images_per_second"] for each in of_workers) <= 4000 / seconds + 1
        text = "".join(
            get(f"http://127.0.0.1:{port}/metrics").decode()
            for port in client.run(lambda dask_worker: dask_worker.http_server.port).values()
        )
    # the loss of a step is known, and reported, with the next one
    assert {each["hinge_loss"] for each in of_workers} <= {"", f"{losses[0]:.6g}"}
    for name in ("hinge_steps_per_second", "hinge_images_per_second", "hinge_resident_bytes"):
        assert text.count(f'{name}{{worker="tcp://') >= 2


def test_groups_are_laid_out_to_the_right_of_those_they_need() -> None:
    needed = {"a": {"z", "m"}, "m": {"z"}, "z": set[str](), "b": {"a", "z"}, "lone": set[str]()}
    cells = lay_out(needed)
    assert cells.keys() == needed.keys()
    assert len(set(cells.values())) == len(cells)
    for name, others in needed.items():
        assert all(cells[each].column < cells[name].column for each in others)
    in_a_cycle = lay_out({"a": {"b"}, "b": {"a"}})
    assert len(set(in_a_cycle.values())) == 2


def test_page_shows_the_runs_that_commands_report(client: Client) -> None:
    for message in (STARTED, PROGRESS, PROGRESS | {"done": 60, "loss": 8.25}, FINISHED):
        client.log_event("hinge", message)
    until(lambda: client.run_on_scheduler(statuses) == ["done"])
    found = columns(client, "/hinge")
    [table] = [data for data in found if "parameters" in data]
    assert {name: list(cells) for name, cells in table.items() if name != "started"} == {
        "run": ["calm-otter"],
        "what": ["gd 200 x 1e-7"],
        "data": ["cifar.zarr"],
        "parameters": ["steps=200, step_size=1e-07"],
        "progress": ["train 60 of 200 (30 %)"],
        "loss": ["8.25"],
        "rate": ["12.5/s"],
        "status": ["done"],
        "result": ["loss 7.1"],
        "directory": ["/runs/calm-otter"],
        "link": ["http://127.0.0.1:4200/runs/flow-run/1"],
        "colour": ["#2ca02c"],
    }
    [curves] = [data for data in found if "y" in data]
    [name] = curves["run"]
    assert name.startswith("gd 200 x 1e-7, ")  # and its start
    assert (curves["x"], curves["y"]) == ([[50, 60]], [[8.5, 8.25]])
    [bars] = [data for data in found if "images" in data]
    assert len(bars["worker"]) == 2


def test_curves_are_those_of_the_runs_in_progress_if_there_are_any() -> None:
    history, now = RunHistory(), time.time()
    shown = LossCurves(history)
    for run, seconds in (("ended", now), ("killed", now - 3600), ("going-on", now)):
        for step in (1, 2):
            history.record(PROGRESS | {"run": run, "done": step}, seconds)
    history.record(FINISHED | {"run": "ended"}, now)
    shown.update()
    [curve] = shown.root.select({"type": ColumnDataSource})
    assert isinstance(curve, ColumnDataSource)
    assert [name.split(",")[0] for name in curve.data["run"]] == ["going-on"]
    history.record(FINISHED | {"run": "going-on"}, now)
    shown.update()
    assert len(curve.data["run"]) == 3


def statuses(dask_scheduler: Any) -> list[str]:
    return [run.status for run in dask_scheduler.plugins[HingeDashboard.name].history.runs]


@pytest.mark.slow
def test_pages_need_nothing_from_other_hosts_and_link_to_ours(client: Client) -> None:
    add_to_dashboard(client)  # a second command on the same cluster
    for path in ("/hinge", "/status", "/groups", "/workers"):
        text = get(address_of(client, path)).decode()
        assert text.count('href="hinge"') == 1
        assert "&lt;" not in text  # no tag is shown as text
        needed = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', text)
        assert any("bokeh.min.js" in each for each in needed)
        assert [each for each in needed if "//" in each] == []
        for each in needed:
            get(address_of(client, "/" + each.lstrip("/")))


def test_scheduler_without_a_dashboard_gets_no_page() -> None:
    with (
        LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster) as client,
    ):
        add_to_dashboard(client)
        assert client.run_on_scheduler(statuses) == []
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get(address_of(client, "/hinge"))
        caught.value.close()


ON_REQUEST = """
import sys, urllib.error, urllib.request
from pipeline.cluster.connect import connect

def get(path):
    address = client.dashboard_link.replace("/status", path)
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.status

if __name__ == "__main__":
    with connect(workers=1) as client:
        get("/metrics")
        assert "bokeh" not in sys.modules
        assert [get(path) for path in ("/groups", "/hinge", "/status", "/")] == [200] * 4
        try:
            get("/no-such-page")
        except urllib.error.HTTPError as error:
            assert error.code == 404
            error.close()
    print("shown")
"""


@pytest.mark.slow
def test_local_cluster_imports_bokeh_when_a_page_is_opened(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(ON_REQUEST)
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stdout == "shown\n", ended.stderr


def test_history_is_bounded_and_ignores_other_messages() -> None:
    history = RunHistory()
    for step in range(10 * MAX_POINTS):
        history.record(PROGRESS | {"done": step, "loss": float(step)}, 0.0)
    [run] = history.runs
    assert len(run.curve) <= MAX_POINTS
    assert run.curve[0] == (0, 0.0)
    assert run.curve[-1] == (10 * MAX_POINTS - 1, 10 * MAX_POINTS - 1)
    for message in (None, "text", {}, {"run": 7}, {"run": "calm-otter", "event": "unknown"}):
        history.record(message, 0.0)
    assert history.runs == [run]
    history.record(STARTED | {"run": "single"}, 0.0)
    assert [each.number for each in history.runs] == [0, 1]  # the colours differ
    for number in range(2 * MAX_RUNS):
        history.record(STARTED | {"run": f"run-{number}"}, float(number))
    assert [run.run for run in history.runs] == [f"run-{i}" for i in range(MAX_RUNS, 2 * MAX_RUNS)]
