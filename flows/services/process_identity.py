"""Unambiguous identities of processes, to store in files.

A process id alone is ambiguous. The kernel reuses ids, at the latest after a reboot, and another
machine or container has its own processes with the same ids. A file that outlives a process, or
that several hosts read, must therefore store more than the id.
"""

import hashlib
import os
import socket
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACES = Path("/proc/self/ns")


@dataclass(frozen=True)
class HostIdentity:
    """The scope in which a process id names one process and a loopback address one listener.

    Two containers on one machine are two hosts. A machine is a different host after a reboot.
    """

    name: str
    boot: str
    """The kernel's random boot id; empty on systems without one (macOS)."""
    pid_namespace: str
    """Empty on systems without namespaces."""
    network_namespace: str
    """Empty on systems without namespaces."""

    @classmethod
    @cache  # a laptop's name can change while a command runs
    def current(cls) -> Self:
        """Return the identity of this process's host."""
        return cls(
            name=socket.gethostname(),
            boot=_BOOT.read_text().strip() if _BOOT.exists() else "",
            pid_namespace=_namespace("pid"),
            network_namespace=_namespace("net"),
        )

    @property
    def digest(self) -> str:
        """A short name for files that belong to only this host."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, distinct from every other process on any host at any time."""

    pid: int
    started: float
    """Start time in seconds since the host's boot, to a hundredth."""
    host: HostIdentity

    @classmethod
    def current(cls) -> Self:
        """Return the identity of this process."""
        identity = cls.of(os.getpid())
        assert identity is not None
        return identity

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of the live process with this id on this host, or None.

        A zombie (a process that has ended but whose parent has not waited for it) is not alive.
        """
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            # Both times depend on the system clock, so setting the clock does not change this.
            started = round(process.create_time() - psutil.boot_time(), 2)
        except psutil.Error:
            return None
        return cls(pid, started, HostIdentity.current())

    def is_alive(self) -> bool:
        """Return whether this process is alive on this host; False for another host's process."""
        return self.of(self.pid) == self

    def send_signal(self, number: int) -> None:
        """Send a signal to this process if it is alive on this host, never to another process."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)  # checks the start time again before it signals
            if self.is_alive():
                process.send_signal(number)

    def to_json(self) -> dict[str, object]:
        """Return the identity as a dict that `json` can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the identity from which `to_json` made `value`.

        Raises ValueError for any other value.
        """
        match value:
            case {
                "pid": int(pid),
                "started": int() | float() as started,
                "host": {
                    "name": str(name),
                    "boot": str(boot),
                    "pid_namespace": str(pid_namespace),
                    "network_namespace": str(network_namespace),
                },
            } if pid > 0:  # an id of 0 or less would signal a group of processes
                host = HostIdentity(name, boot, pid_namespace, network_namespace)
                return cls(pid, started, host)
        raise ValueError(f"not the identity of a process: {value!r}")


def _namespace(kind: str) -> str:
    """Return this process's namespace of a kind, such as `pid:[4026531836]`; empty if none."""
    path = _NAMESPACES / kind
    return str(path.readlink()) if path.is_symlink() else ""
