"""Claims, which ensure that only one ingest at a time writes a store, even across machines.

    with claim_store(location) as claim:
        ...  # write
        claim.check()
        ...  # publish

A claim is a small JSON file beside the store, `.NAME.claim`, that names the writing process. A
second ingest of that store raises ClaimedError.

* For a path, the file is locked by the kernel (`flock`), which releases the lock when the process
  ends. The lock also excludes other machines if the file system supports locks between machines,
  as NFSv4 does. On other file systems, an ingest on another machine watches the content of the
  file, as described below.
* For other URLs, the object is created only if it does not exist (see `Location.create_object`).
  On a file system that cannot guarantee this, two ingests may both create it at the same moment.
  The second then replaces the claim of the first. The first notices this in `claim_store` or, at
  the latest, in `Claim.check`. So at most one of them publishes.

The holder rewrites its claim every few seconds (`Lease`). An ingest that finds a claim without a
kernel lock watches the claim. If it changes, its holder is alive. If it does not change for
`Lease.expiry_seconds`, its holder is presumed dead, and the watching ingest takes over. Clocks of
different machines are never compared.
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

from storage.errors import ClaimedError, DataError
from storage.location import Location
from storage.locks import is_locked, release, try_lock_path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# long enough to outlast the short lock that `refuse_if_claimed` takes, and the writing of a claim
_LOCK_SECONDS = 1.0
_POLL_SECONDS = 0.05

Tell = Callable[[str], None]
Wait = Callable[[float], None]


@dataclass(frozen=True)
class Lease:
    """The timing of a claim: how often it is rewritten and when it expires."""

    refresh_seconds: float = 5.0
    """Interval at which the holder rewrites its claim."""
    expiry_seconds: float = 30.0
    """Time without a rewrite after which the holder is presumed dead."""
    settle_seconds: float = 1.0
    """Wait after creating a claim, so that the claim of a concurrent ingest becomes visible."""


LEASE = Lease()


@dataclass(frozen=True)
class Holder:
    """The holder of a claim, as stored in the claim's file."""

    host: str
    kernel: str
    """The kernel's boot id, or the host's name on a system without one."""
    pid: int
    started: str
    """Time (UTC) at which the claim was made."""
    nonce: str
    """A random number that is unique to this claim."""
    beat: int = 0
    """Number of times that the claim was rewritten."""

    @classmethod
    def this_process(cls) -> "Holder":
        """Return a new holder for this process."""
        host = socket.gethostname()
        kernel = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else host
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(host, kernel, os.getpid(), started, secrets.token_hex(16))

    @classmethod
    def read(cls, place: Location) -> "Holder | None":
        """Return the holder of the claim at `place`, or None if it is missing or unreadable."""
        try:
            return cls(**json.loads(place.read_bytes() or b""))
        except (ValueError, TypeError):  # half-written, by a process that died or is still writing
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
    """This process's right to write a store, created by `claim_store`."""

    location: Location
    holder: Holder
    _ended: threading.Event = field(default_factory=threading.Event)
    _rewriting: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    """Locked while the claim is rewritten, so that `check` never reads a half-written claim."""

    def check(self) -> None:
        """Check that this process still holds the claim.

        Another ingest may have taken over while this process was suspended.

        Raises:
            DataError: Another ingest has taken over, or the claim's file was removed.
        """
        with self._rewriting:
            held = Holder.read(self.location.claim)
        if held is None or held.nonce != self.holder.nonce:
            by = f"it is now held by {held}" if held else f"{self.location.claim} was removed"
            raise DataError(
                f"this ingest has lost its claim on {self.location} ({by}); run it again"
            )

    def _refresh(self, seconds: float) -> None:
        """Rewrite the claim every `seconds` until it is given up or lost."""
        while not self._ended.wait(seconds):
            try:
                with self._rewriting:
                    self.check()
                    self.holder = replace(self.holder, beat=self.holder.beat + 1)
                    self.holder.write(self.location.claim)
            except DataError:
                return
            except Exception:  # a network failure; if it persists, `check` raises
                continue

    def _give_up(self) -> None:
        """Remove the claim; if that fails (on a bad network, for example), it expires."""
        with suppress(Exception):
            held = Holder.read(self.location.claim)
            if held is not None and held.nonce == self.holder.nonce:
                self.location.claim.remove()


@contextmanager
def claim_store(
    location: Location,
    lease: Lease = LEASE,
    tell: Tell = lambda _: None,
    wait: Wait = time.sleep,
) -> Iterator[Claim]:
    """Hold the claim on the store at `location` while the `with` block runs.

    `tell` is called with one line of text if another ingest's claim has to be watched. `wait` waits
    for a number of seconds; it may raise an exception to give up.

    Raises:
        ClaimedError: Another ingest holds the claim.
        DataError: No claim can be written there.
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
                _take_file(claim, lease, tell, wait)
            else:
                _take_object(claim, lease, tell, wait)
        except OSError as error:
            raise DataError(f"cannot write a store at {location}: {error}") from error
        stack.callback(claim._give_up)
        stack.enter_context(_refreshing(claim, lease))
        yield claim


def refuse_if_claimed(location: Location) -> None:
    """Raise ClaimedError if a process on this machine is writing the local store at `location`.

    This early check writes nothing; `claim_store` makes the complete check.

    Raises:
        ClaimedError: A process on this machine is writing the store.
        DataError: The location cannot be read.
    """
    try:
        claimed = location.is_local and is_locked(Path(location.claim.url))
    except OSError as error:
        raise DataError(f"cannot write a store at {location}: {error}") from error
    if claimed:
        raise _refusal(location, _holder_of_lock(location))


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
    """Hold the kernel lock on a local claim's file; the `with` block may remove the file."""
    path = Path(location.claim.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_SECONDS
    while (descriptor := try_lock_path(path)) is None:
        if time.monotonic() > deadline:
            raise _refusal(location, _holder_of_lock(location))
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        release(descriptor)


def _holder_of_lock(location: Location) -> Holder | None:
    """Return the holder of a locked claim, or None if the file names none within `_LOCK_SECONDS`.

    The file is empty for a moment between the lock and the first claim, and at every rewrite.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while (holder := Holder.read(location.claim)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return holder


def _take_file(claim: Claim, lease: Lease, tell: Tell, wait: Wait) -> None:
    """Write the claim into the locked file.

    A claim left by a process under the same kernel is stale, because this process has the lock.
    """
    place = claim.location.claim
    left = Holder.read(place)
    if left is not None and left.kernel != claim.holder.kernel:
        _watch(claim.location, left, lease, tell, wait)
    claim.holder.write(place)


def _take_object(claim: Claim, lease: Lease, tell: Tell, wait: Wait) -> None:
    """Create the claim's object, replacing that of a dead process."""
    place = claim.location.claim
    while not place.create_object(claim.holder.to_bytes()):
        held = Holder.read(place)
        _watch(claim.location, held, lease, tell, wait)
        if Holder.read(place) == held:
            place.remove()
    wait(lease.settle_seconds)
    settled = Holder.read(place)
    if settled != claim.holder:
        raise _refusal(claim.location, settled)


def _watch(location: Location, held: Holder | None, lease: Lease, tell: Tell, wait: Wait) -> None:
    """Wait until the claim expires or is removed; raise ClaimedError if its holder rewrites it."""
    tell(
        f"{location} is claimed by another ingest ({held or 'unknown'}); waiting up to "
        f"{lease.expiry_seconds:g} s to see whether it is alive"
    )
    deadline = time.monotonic() + lease.expiry_seconds
    while time.monotonic() < deadline:
        wait(lease.refresh_seconds / 5)
        now = Holder.read(location.claim)
        if now is None and location.claim.read_bytes() is None:
            return
        if now is not None and now != held:
            raise _refusal(location, now)


def _refusal(location: Location, holder: Holder | None) -> ClaimedError:
    return ClaimedError(
        f"{location} is being written by another ingest ({holder or 'it has just started'}); "
        "wait until it finishes or stop it, then run this again"
    )
