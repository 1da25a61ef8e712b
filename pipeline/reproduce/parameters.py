"""The parameters of a reproduction of the notes."""

from dataclasses import dataclass

from pipeline.inputs.rules import Parameters, Seed


@dataclass(frozen=True)
class Reproduction(Parameters):
    """Everything that decides a reproduction."""

    seed: Seed = 0
