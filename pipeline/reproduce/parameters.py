"""Parameters of a reproduction of the notes."""

from dataclasses import dataclass

from pipeline.inputs.rules import Parameters, Seed
from pipeline.inputs.words import with_seed


@dataclass(frozen=True)
class Reproduction(Parameters):
    """The parameters that determine a reproduction."""

    seed: Seed = 0

    def in_words(self) -> str:
        """Return what is done, such as `reproduce seed 0`."""
        return with_seed("reproduce", self.seed)
