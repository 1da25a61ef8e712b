"""Which process a file means: a process id, with what makes that number unambiguous.

A kernel gives the same process id to another process later, after a reboot at the latest.
Another machine or container has its own processes of the same numbers. A file that outlives a
process, or that several hosts read, therefore has to say more than the number.
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
    """Where a process id names one process, and a loopback address one listener.

    Two containers on one machine are two hosts, and so is a machine before and after a reboot.
    """

    name: str
    boot: str
    """Random, chosen by the kernel when it starts. Empty where there is none (macOS)."""
    pid_namespace: str
    """Empty where there are no namespaces, as the next is."""
    network_namespace: str

    @classmethod
    @cache  # a laptop's name can change while a command runs
    def current(cls) -> Self:
        """Return the host of this process."""
        return cls(
            name=socket.gethostname(),
            boot=_BOOT.read_text().strip() if _BOOT.exists() else "",
            pid_namespace=_namespace("pid"),
            network_namespace=_namespace("net"),
        )

    @property
    def digest(self) -> str:
        """A short name for files that belong to this host alone."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, distinct from every other of any host and any time."""

    pid: int
    started: float
    """Seconds from the boot of its host to its start, to a hundredth."""
    host: HostIdentity

    @classmethod
    def current(cls) -> Self:
        """Return the identity of this process."""
        identity = cls.of(os.getpid())
        assert identity is not None
        return identity

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of the live process that has this id on this host, if there is one.

        A process that has ended and that its parent has not yet waited for is not alive.
        """
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            # The system's clock is in both terms, so that setting it changes nothing.
            started = round(process.create_time() - psutil.boot_time(), 2)
        except psutil.Error:
            return None
        return cls(pid, started, HostIdentity.current())

    def is_alive(self) -> bool:
        """Whether this process is alive on this host. That of another host counts as not alive."""
        return self.of(self.pid) == self

    def send_signal(self, number: int) -> None:
        """Send a signal to this process if it is alive on this host, and never to another one."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)  # it looks at its start time again as it signals
            if self.is_alive():
                process.send_signal(number)

    def to_json(self) -> dict[str, object]:
        """Return the identity as an object that `json` can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the identity that `to_json` made `value` of.

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
            } if pid > 0:  # to signal 0 or less is to signal a group of processes
                host = HostIdentity(name, boot, pid_namespace, network_namespace)
                return cls(pid, started, host)
        raise ValueError(f"not the identity of a process: {value!r}")


def _namespace(kind: str) -> str:
    """Return the name of this process's namespace of that kind, such as `pid:[4026531836]`."""
    path = _NAMESPACES / kind
    return str(path.readlink()) if path.is_symlink() else ""
