"""The claims of the notes that can be compared with this run, and those that cannot."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.reproduce import notes
from flows.reproduce.claims import Claim
from flows.sweep.results import SweepResult

_OTHER_IMAGES = "this run did not use all of the notes' images"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A number or claim of the notes, compared with the result of this run."""

    name: str
    ours: str
    notes: str
    agrees: bool
    how: str
    """The criterion for agreement."""


@dataclass(frozen=True, kw_only=True)
class NotComparable:
    """A number or claim of the notes that cannot be compared with the result of this run."""

    name: str
    ours: str
    notes: str
    why: str


def comparable(claims: Sequence[Claim], *, notes_images: bool) -> tuple[Comparison, ...]:
    """Return the claims that can be compared.

    `notes_images` states whether the run used all of the notes' own images.
    """
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
    """Return the claims that cannot be compared, each with the reason."""
    other_images = (
        NotComparable(name=each.name, ours=each.ours, notes=each.notes, why=_OTHER_IMAGES)
        for each in claims
        if each.of_images and not notes_images
    )
    initial_loss = NotComparable(
        name="step-size sweep: the loss before the step",
        ours=f"{sweep.initial_loss:.6f}",
        notes=f"{notes.SWEEP_INITIAL:.6f}",
        why="with ten classes, random weights of this scale have a hinge loss of 9 or more; the "
        "notes print a different loss, so only the shape of the curve can be compared",
    )
    return (*other_images, initial_loss)
