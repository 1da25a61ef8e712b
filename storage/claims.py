"""Claims: one ingest at a time writes a store, whatever process or machine it runs on.

    with claim_store(location) as claim:
        ...  # write
        claim.check()
        ...  # publish

A claim is a small JSON file beside the store, `.NAME.claim`, that says who writes. A second
ingest is refused.

* For a path, the file is locked by the kernel (`flock`), and the lock ends with its process.
  Other machines are excluded if the file system passes such locks on, as NFSv4 does. If it
  does not, the file's content excludes them, by the rule below.
* Elsewhere, the object is created only if there is none (see `Location.create_object`). On a
  file system that cannot promise that, two ingests may both create it within one moment. The
  second then replaces the first one's claim, which the first notices in `claim_store` or, at
  the latest, in `Claim.check`. So at most one of them publishes.

The holder rewrites its claim every few seconds (`Lease`). Whoever finds a claim that no kernel
lock decides on watches it. If it changes, its holder is alive. If it does not change for
`Lease.expiry_seconds`, its holder is dead, and the watcher takes over. No two clocks are
compared.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.errors import DataError
from storage.location import Location
from storage.locks import is_locked, release, try_lock_path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOCK_SECONDS = 1.0  # for which a probe by `refuse_if_claimed` cannot refuse a real claim
_POLL_SECONDS = 0.05

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Lease:
    """How long a claim holds without a sign of life from its holder."""

    refresh_seconds: float = 5.0
    """The holder rewrites its claim this often."""
    expiry_seconds: float = 30.0
    """A claim that is not rewritten for so long is a dead process's."""
    settle_seconds: float = 1.0
    """After this, a claim that another ingest created in the same moment is seen."""


LEASE = Lease()


@dataclass(frozen=True)
class Holder:
    """Who holds a claim, as the claim's file says."""

    host: str
    kernel: str
    """The running kernel's boot id; the host's name on a system without one."""
    pid: int
    started: str
    """When the claim was made, UTC."""
    nonce: str
    """A random number that no other claim has."""
    beat: int = 0
    """How often the claim was rewritten."""

    @classmethod
    def this_process(cls) -> "Holder":
        """Make a new holder for this process."""
        host = socket.gethostname()
        kernel = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else host
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(host, kernel, os.getpid(), started, secrets.token_hex(16))

    @classmethod
    def read(cls, place: Location) -> "Holder | None":
        """Return who holds the claim at `place`; None if there is none, or it cannot be read."""
        try:
            return cls(**json.loads(place.read_bytes() or b""))
        except (ValueError, TypeError):  # killed, or still busy, while it wrote it
            return None

    def write(self, place: Location) -> None:
        """Write this holder's claim at `place`."""
        place.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the claim's file."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@dataclass
class Claim:
    """The right to write a store, held by this process. Made by `claim_store`."""

    location: Location
    holder: Holder
    _ended: threading.Event = field(default_factory=threading.Event)
    _rewriting: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    """Held while the claim is rewritten, so that `check` never reads half of it."""

    def check(self) -> None:
        """Check that no other ingest has taken over, as one may if this process was suspended.

        Raises:
            DataError: one has, or the claim's file was removed.
        """
        with self._rewriting:
            held = Holder.read(self.location.claim)
        if held is None or held.nonce != self.holder.nonce:
            by = f"it is now held by {held}" if held else f"{self.location.claim} is gone"
            raise DataError(
                f"this ingest has lost its claim on {self.location} ({by}); run it again"
            )

    def _refresh(self, seconds: float) -> None:
        """Rewrite the claim every so often until it is given up or lost."""
        while not self._ended.wait(seconds):
            try:
                with self._rewriting:
                    self.check()
                    self.holder = replace(self.holder, beat=self.holder.beat + 1)
                    self.holder.write(self.location.claim)
            except DataError:
                return
            except Exception:  # a network's bad moment; `check` tells if it lasts
                continue

    def _give_up(self) -> None:
        """Remove the claim; if that fails, as on a bad network, it expires with its lease."""
        with suppress(Exception):
            held = Holder.read(self.location.claim)
            if held is not None and held.nonce == self.holder.nonce:
                self.location.claim.remove()


@contextmanager
def claim_store(
    location: Location, lease: Lease = LEASE, tell: Tell = lambda _: None
) -> Iterator[Claim]:
    """Hold the claim on the store at `location` while the block writes it.

    `tell` is told what is waited for, in a line, if another's claim has to be watched.

    Raises:
        DataError: another ingest holds it, or no claim can be written there.
    """
    if location.is_bucket:
        raise DataError(
            f"{location} is a whole bucket; name a store in it, such as {location}/cifar10.zarr"
        )
    claim = Claim(location, Holder.this_process())
    with ExitStack() as stack:
        try:
            if location.is_local:
                stack.enter_context(_locked(location))
                _take_file(claim, lease, tell)
            else:
                _take_object(claim, lease, tell)
        except OSError as error:
            raise DataError(f"cannot write a store at {location}: {error}") from error
        stack.callback(claim._give_up)
        stack.enter_context(_refreshing(claim, lease))
        yield claim


def refuse_if_claimed(location: Location) -> None:
    """Refuse early what `claim_store` would surely refuse; write nothing.

    Raises:
        DataError: a process of this machine is writing the store.
    """
    try:
        claimed = location.is_local and is_locked(Path(location.claim.url))
    except OSError as error:
        raise DataError(f"cannot write a store at {location}: {error}") from error
    if claimed:
        raise _refusal(location, Holder.read(location.claim))


@contextmanager
def _refreshing(claim: Claim, lease: Lease) -> Iterator[None]:
    thread = threading.Thread(
        target=claim._refresh, args=(lease.refresh_seconds,), name="hinge-claim", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        claim._ended.set()
        thread.join()


@contextmanager
def _locked(location: Location) -> Iterator[None]:
    """Hold the kernel's lock on a path's claim; on leaving, the file may be gone."""
    path = Path(location.claim.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_SECONDS
    while (descriptor := try_lock_path(path)) is None:
        if time.monotonic() > deadline:
            raise _refusal(location, Holder.read(location.claim))
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        release(descriptor)


def _take_file(claim: Claim, lease: Lease, tell: Tell) -> None:
    """Write the claim into the locked file.

    What a holder under the same kernel left there, the lock has decided on.
    """
    place = claim.location.claim
    left = Holder.read(place)
    if left is not None and left.kernel != claim.holder.kernel:
        _watch(claim.location, left, lease, tell)
    claim.holder.write(place)


def _take_object(claim: Claim, lease: Lease, tell: Tell) -> None:
    """Create the claim's object; take the place of a dead process's."""
    place = claim.location.claim
    while not place.create_object(claim.holder.to_bytes()):
        held = Holder.read(place)
        _watch(claim.location, held, lease, tell)
        if Holder.read(place) == held:
            place.remove()
    time.sleep(lease.settle_seconds)
    settled = Holder.read(place)
    if settled != claim.holder:
        raise _refusal(claim.location, settled)


def _watch(location: Location, held: Holder | None, lease: Lease, tell: Tell) -> None:
    """Return when the claim has expired or is gone; refuse as soon as its holder shows life."""
    tell(
        f"{location} is claimed by another ingest ({held or 'unknown'}); watching for up to "
        f"{lease.expiry_seconds:g} s whether it is alive"
    )
    deadline = time.monotonic() + lease.expiry_seconds
    while time.monotonic() < deadline:
        time.sleep(lease.refresh_seconds / 5)
        now = Holder.read(location.claim)
        if now is None and location.claim.read_bytes() is None:
            return
        if now is not None and now != held:
            raise _refusal(location, now)


def _refusal(location: Location, holder: Holder | None) -> DataError:
    return DataError(
        f"{location} is being written by another ingest ({holder or 'it has just begun'}); "
        "wait for its end or end it, then run this again"
    )
