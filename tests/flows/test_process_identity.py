"""Process identities, which distinguish processes on all hosts and at all times."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.services.process_identity import HostIdentity, ProcessIdentity

ELSEWHERE: dict[str, Callable[[ProcessIdentity], ProcessIdentity]] = {
    "another machine": lambda one: replace(one, host=replace(one.host, name="other")),
    "another boot": lambda one: replace(one, host=replace(one.host, boot="other")),
    "another pid namespace": lambda one: replace(
        one, host=replace(one.host, pid_namespace="pid:[1]")
    ),
    "another network namespace": lambda one: replace(
        one, host=replace(one.host, network_namespace="net:[1]")
    ),
    "an earlier process with this id": lambda one: replace(one, started=one.started - 0.01),
}
"""For each case, a function that turns an identity into another one with the same process id."""


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def identity_of(process: "subprocess.Popen[bytes]") -> ProcessIdentity:
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    return identity


def test_current_identity_matches_the_kernel() -> None:
    here = ProcessIdentity.current()
    assert here.pid == os.getpid()
    assert here.host.name == socket.gethostname()
    if Path("/proc").exists():
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        assert here.started == int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        assert here.host.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        shown = subprocess.run(
            ["readlink", "/proc/self/ns/pid", "/proc/self/ns/net"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert [here.host.pid_namespace, here.host.network_namespace] == shown.stdout.split()


def test_identity_read_from_json_is_alive_and_can_be_signalled(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    written = json.dumps(identity_of(sleeper).to_json())
    known = ProcessIdentity.from_json(json.loads(written))
    assert known == identity_of(sleeper)
    assert known.is_alive()
    known.send_signal(signal.SIGTERM)
    assert sleeper.wait(timeout=10) == -signal.SIGTERM


@pytest.mark.parametrize("where", ELSEWHERE)
def test_different_identity_with_the_same_id_is_not_signalled(
    where: str, sleeper: "subprocess.Popen[bytes]"
) -> None:
    other = ELSEWHERE[where](identity_of(sleeper))
    assert not other.is_alive()
    other.send_signal(signal.SIGKILL)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(timeout=0.1)


def test_ended_process_is_not_alive(sleeper: "subprocess.Popen[bytes]") -> None:
    identity = identity_of(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # ended but not yet waited for
    assert not identity.is_alive()
    sleeper.wait()
    assert not identity.is_alive()
    identity.send_signal(signal.SIGKILL)


def test_different_hosts_have_different_digests() -> None:
    here = ProcessIdentity.current()
    hosts = {make(here).host for make in ELSEWHERE.values()}
    assert len(hosts) == len({host.digest for host in hosts}) == 5  # one of them is this host
    assert HostIdentity.current() in hosts


def test_start_time_does_not_depend_on_when_it_is_read(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    first = identity_of(sleeper)
    time.sleep(0.05)
    assert identity_of(sleeper) == first


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 0},
        {"pid": -1},
        {"pid": "7"},
        {"pid": None},
        {"started": None},
        {"host": None},
        {"host": {"name": "only"}},
    ],
)
def test_identity_with_an_invalid_field_raises_value_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the identity of a process"):
        ProcessIdentity.from_json(ProcessIdentity.current().to_json() | change)


@pytest.mark.parametrize("value", [None, 7, "pid", [], {}, {"pid": 1}])
def test_value_that_is_not_an_identity_raises_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="not the identity of a process"):
        ProcessIdentity.from_json(value)


def test_impossible_process_id_is_not_alive() -> None:
    impossible = replace(ProcessIdentity.current(), pid=2**70)
    assert not impossible.is_alive()
    impossible.send_signal(signal.SIGKILL)
