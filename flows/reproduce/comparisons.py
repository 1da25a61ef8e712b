"""Which claims of the notes are compared with what came out here, and which cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.reproduce import notes
from flows.reproduce.claims import Claim
from flows.sweep.results import SweepResult

_OTHER_IMAGES = "these are not all of the notes' images"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A number or claim of the notes beside ours."""

    name: str
    ours: str
    notes: str
    agrees: bool
    how: str
    """What decides whether they agree."""


@dataclass(frozen=True, kw_only=True)
class NotComparable:
    """A number or claim of the notes that ours cannot be compared with."""

    name: str
    ours: str
    notes: str
    why: str


def comparable(claims: Sequence[Claim], *, notes_images: bool) -> tuple[Comparison, ...]:
    """Return the claims that can be compared; `notes_images`: on the notes' own images."""
    return tuple(
        Comparison(
            name=each.name, ours=each.ours, notes=each.notes, agrees=each.agrees, how=each.how
        )
        for each in claims
        if notes_images or not each.of_images
    )


def not_comparable(
    claims: Sequence[Claim], sweep: SweepResult, *, notes_images: bool
) -> tuple[NotComparable, ...]:
    """Return what cannot be compared, and why."""
    other_images = (
        NotComparable(name=each.name, ours=each.ours, notes=each.notes, why=_OTHER_IMAGES)
        for each in claims
        if each.of_images and not notes_images
    )
    initial_loss = NotComparable(
        name="sweep: the loss before the step",
        ours=f"{sweep.initial_loss:.6f}",
        notes=f"{notes.SWEEP_INITIAL:.6f}",
        why="random weights of that scale have a hinge loss of 9 and more with ten classes; the "
        "printed number is another loss's, and only the shape of its curve is comparable",
    )
    return (*other_images, initial_loss)
