"""The request to stop the work of this process.

A signal handler must not raise an exception: Python would raise it in whatever line the main thread
is running, where it can get lost. Here a handler only calls `request_stop`. The work calls
`check_stop` or `pause` between its steps, and ends with `Interrupted` there. Every wait for the
cluster (`pipeline.cluster.waiting`) is such a point.
"""

import time

SLICE_SECONDS = 0.05
"""The longest wait between two looks at the request."""


class Interrupted(KeyboardInterrupt):
    """The work was stopped on request. The argument, if any, says how to resume it."""


_requested = False


def request_stop() -> None:
    """Ask the work of this process to stop. A signal handler may call this at any time."""
    global _requested  # noqa: PLW0603
    _requested = True


def withdraw_stop() -> None:
    """Forget the request, so that other work can start."""
    global _requested  # noqa: PLW0603
    _requested = False


def stop_requested() -> bool:
    """Return whether the work has been asked to stop."""
    return _requested


def check_stop() -> None:
    """Raise Interrupted if the work has been asked to stop."""
    if _requested:
        raise Interrupted


def pause(seconds: float) -> None:
    """Wait. Raise Interrupted as soon as the work is asked to stop."""
    end = time.monotonic() + seconds
    check_stop()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_SECONDS))
        check_stop()
