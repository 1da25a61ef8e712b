"""What the checks of `hinge doctor` find."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    check: str
    """What was checked."""
    level: Level
    text: str
    """What was found."""
    advice: str = ""
    """What to do about it."""


class Answer(NamedTuple):
    """What a check returns: a finding without the name of the check."""

    level: Level
    text: str
    advice: str = ""


class Check(NamedTuple):
    """A named check. It may find several things."""

    name: str
    find: Callable[[], Iterable[Answer]]


def run_checks(checks: Iterable[Check]) -> Iterator[Finding]:
    """Run the checks in order, and yield what they find.

    An installation that does not work can raise any error anywhere. An error of a check, even an
    exit that an imported package asks for, is therefore a finding.
    """
    for check in checks:
        try:
            yield from (Finding(check.name, *answer) for answer in check.find())
        except (Exception, SystemExit) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding(check.name, "problem", text, "see the other lines; else report this")
