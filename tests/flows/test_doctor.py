"""The checks of `hinge doctor`: what a good and a broken installation look like."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.settings import temporary_settings

from flows.doctor import machine, services
from flows.doctor.findings import Answer, Check, run_checks
from flows.doctor.packages import find_clashes
from tests.flows.conftest import Command, User


def install(directory: Path, name: str, version: str, *needs: str) -> None:
    """Write the metadata of an installed distribution."""
    about = directory / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    (about / "METADATA").write_text("\n".join(lines) + "\n")


# -- the command


def test_good_installation_has_no_problems(hinge: Command, store: Path, user: User) -> None:
    finished = hinge("doctor", "--store", store, "--scheduler", user.scheduler, "--json")
    assert finished.status == 0, finished.out
    assert finished.result["problems"] == 0
    found = {each["check"]: each for each in finished.result["findings"]}
    assert {each["level"] for each in finished.result["findings"]} <= {"ok", "warning"}
    assert found["Python"]["text"] == ".".join(map(str, sys.version_info[:3]))
    assert f"{user.api} answers" in found["Prefect"]["text"]
    assert "600 + 120 images" in found["store"]["text"]
    assert "2 workers with 2 threads" in found["cluster"]["text"]
    assert "read the store" in found["cluster"]["text"]


def test_broken_prefect_and_clashing_versions_are_reported(user: User, tmp_path: Path) -> None:
    """The other checks still run."""
    install(tmp_path, "fastapi", "0.155.0")
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "__init__.py").write_text("raise ImportError('no such name')")
    finished = user.hinge("doctor", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert finished.status == 1, finished
    assert finished.err == ""
    lines = [line.split(maxsplit=2) for line in finished.out.splitlines()]
    problems = [(check, text) for level, check, text in lines if level == "problem"]
    assert {check for check, _ in problems} == {"versions", "imports", "places", "Prefect"}
    texts = " ".join(text for _, text in problems)
    assert "fastapi 0.155.0 is installed; hinge needs fastapi<0.151,>=0.139; python -m pip" in texts
    assert "prefect cannot be imported: ImportError('no such name')" in texts
    assert f"Python finds prefect at {tmp_path / 'prefect'} before the installed one at" in texts
    assert {check for level, check, _ in lines if level == "ok"} >= {"Python", "processor", "runs"}


def test_store_and_cluster_that_do_not_exist_are_problems(
    hinge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.zarr"
    finished = hinge("doctor", "--store", missing, "--scheduler", "tcp://127.0.0.1:9")
    assert finished.status == 1
    problems = [line for line in finished.out.splitlines() if line.startswith("problem")]
    assert len(problems) == 2, problems
    assert f"store         no store at {missing}; create it with `hinge ingest`" in problems[0]
    assert "cluster       no Dask scheduler answers at 'tcp://127.0.0.1:9'" in problems[1]


# -- single checks


def test_check_that_raises_is_a_problem_and_others_still_run() -> None:
    def raises() -> Iterator[Answer]:
        yield Answer("ok", "first")
        raise RuntimeError("one\ntwo")

    def exits() -> Iterator[Answer]:
        raise SystemExit("bye")
        yield

    checks = [Check("a", raises), Check("b", exits), Check("c", lambda: [Answer("ok", "last")])]
    found = [(each.check, each.level, each.text) for each in run_checks(checks)]
    assert found == [
        ("a", "ok", "first"),
        ("a", "problem", "RuntimeError: one two"),
        ("b", "problem", "SystemExit: bye"),
        ("c", "ok", "last"),
    ]


def test_clashes_are_found_in_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "eggs", "2.0", "spam>=1.5,<2", "ham", "tea; extra == 'drinks'", "eggs")
    install(tmp_path, "spam", "2.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [clash.text for clash in find_clashes("eggs")] == [
        "spam 2.1 is installed; eggs needs spam<2,>=1.5",
        "ham is not installed; eggs needs ham",
    ]
    assert [clash.text for clash in find_clashes("tea")] == ["tea is not installed"]


def test_directory_is_checked_for_permission_and_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new" / "runs"
    [answer] = machine.check_directory(new, "--runs")
    assert (answer.level, new.parent.exists()) == ("ok", False)
    monkeypatch.setattr(machine, "DISK_BYTES", 10**18)
    [answer] = machine.check_directory(new, "--runs")
    assert answer.level == "warning"
    (tmp_path / "file").touch()
    [answer] = machine.check_directory(tmp_path / "file" / "runs", "--runs")
    assert (answer.level, answer.advice) == ("problem", "choose another with --runs")


def test_port_in_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(machine, "PORTS", {taken.getsockname()[1]: "a test"})
        [answer] = machine.check_ports(own=())
        assert answer.level == "warning"
        [answer] = machine.check_ports(own=machine.PORTS)
        assert (answer.level, "is used by hinge" in answer.text) == ("ok", True)
    [answer] = machine.check_ports(own=())
    assert (answer.level, "is free" in answer.text) == ("ok", True)


@pytest.mark.slow
def test_port_of_the_local_server_is_an_own_port(user: User) -> None:
    with temporary_settings({"home": user.home / ".prefect"}):
        assert services.own_ports() == {urlsplit(user.api).port}
        assert services.local_server_url() == user.api


def test_little_memory_and_no_cache_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMORY_BYTES", 10**18)
    assert [answer.level for answer in machine.check_memory()] == ["warning"]
    monkeypatch.setattr("kernels.compiled.compilation.cache_directory", lambda: None)
    assert [answer.level for answer in machine.check_cache()] == ["warning"]


def test_processor_without_vectors_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.simd.tiles.host_has", lambda feature: feature == "avx512f")
    assert [answer.text.partition(",")[0] for answer in machine.check_processor()] == ["AVX-512"]
    monkeypatch.setattr("kernels.simd.tiles.host_has", lambda _: False)
    assert [answer.level for answer in machine.check_processor()] == ["warning"]


def test_prefect_api_that_does_not_answer_is_a_problem() -> None:
    with temporary_settings({"api.url": "http://127.0.0.1:9/api"}):
        [answer] = services.check_prefect()
    assert answer.level == "problem"
    assert "http://127.0.0.1:9/api does not answer" in answer.text
    assert "PREFECT_API_URL" in answer.advice
