"""Gradient checks over all shards: the pipeline's own gradient beside finite differences.

The gradient comes the way that training takes it (`pipeline.objective`); the differences from
one pass over the same rows, which never uses the gradient's formula; the verdicts from both.
Sums are integers and bounds are made of them, so that a check finds the same wherever it runs.
"""

from dataclasses import fields
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.data_difference import compare_data_gradient
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison, Findings
from kernels.hinge import fold
from kernels.regulariser_difference import gradient_roundoff, regulariser_quotient
from kernels.structured_difference import (
    Differences,
    Probe,
    differences,
    kink_part,
    quotient,
    roundoff,
    slack_of_float32,
    undecided_part,
)
from pipeline.check_parameters import NO_FINITE_LOSS, GradientCheck
from pipeline.errors import PipelineError
from pipeline.objective import OverShards, total
from pipeline.shards import Rows, Shard, within

Floats = NDArray[np.float64]

DATA_ROWS = 128
"""Rows whose pixels are compared at a time: some 40 MB."""


class Asked(NamedTuple):
    """What `finite_difference` takes: a probe, and over which rows (None for all)."""

    probe: Probe
    rows: Rows | None = None


def finite_difference(shard: Shard, asked: Asked) -> Differences:
    """Add up the differences over a shard's rows, or over those of the given that it has."""
    return reduce(
        Differences.combine,
        (
            differences(asked.probe, images, labels, rows=rows)
            for images, labels, rows in shard.blocks(asked.rows)
        ),
    )


def probe(W: Floats, mean: Floats, check: GradientCheck) -> Probe:
    """Return what a check asks of every row."""
    scorer = fold(W, mean, np.float64)
    slack = slack_of_float32(len(mean)) if check.dtype == "float32" else 0.0
    return Probe(scorer, mean, check.step, check.scheme, slack=slack)


def sums_of(over: OverShards, asked: Asked) -> Differences:
    """Add up the differences over all shards.

    Raises PipelineError if margins at these weights are no numbers.
    """
    sums = total(over, finite_difference, asked)
    if sums.overflows:
        raise PipelineError(NO_FINITE_LOSS)
    return sums


def compare(
    W: Floats, gradient: Floats, asked: Probe, sums: Differences, check: GradientCheck
) -> Comparison:
    """Compare a gradient (C, D + 1) of the loss at `W` with differences that are summed up.

    Raises PipelineError if the step is lost beside a weight.
    """
    try:
        regulariser = regulariser_quotient(
            W, check.reg, asked.step, asked.scheme, reg_bias=check.reg_bias
        )
    except ValueError as error:
        raise PipelineError(f"{error}; take a larger one") from error
    return Comparison(
        gradient,
        quotient(sums, asked) + regulariser.value,
        kink_part(sums, asked),
        sums.crossings,
        roundoff(sums, asked)
        + regulariser.bound
        + gradient_roundoff(gradient, W, asked.mean, check.reg),
        undecided_part(sums),
    )


def chosen_of(comparison: Comparison, coordinates: NDArray[np.int64]) -> Comparison:
    """Return the comparison of some coordinates alone (k,), by their places in (C, D + 1)."""
    arrays = (getattr(comparison, field.name) for field in fields(comparison))
    return Comparison(*(np.ravel(array)[coordinates] for array in arrays))


class DataAsked(NamedTuple):
    """What `data_difference` takes."""

    W: Floats
    mean: Floats
    step: float
    scheme: Scheme
    rows: Rows | None = None


class DataFound(NamedTuple):
    """What was found of some rows' pixels."""

    findings: Findings
    errors: Floats
    """(D,): the largest relative error of each pixel once kinks are accounted for."""
    crossings: NDArray[np.int64]
    """(D,): of each pixel."""
    rows: int

    def combine(self, other: "DataFound", /) -> "DataFound":
        """Return what was found of both."""
        return DataFound(
            self.findings.combine(other.findings),
            np.maximum(self.errors, other.errors),
            self.crossings + other.crossings,
            self.rows + other.rows,
        )


def data_difference(shard: Shard, asked: DataAsked) -> DataFound:
    """Compare the gradient in each row's pixels with its differences, and say what is found.

    The rows are named by their numbers in the split.
    """
    empty = np.empty(0, np.int64)
    found = [
        _compared(asked, np.empty((0, len(asked.mean)), np.uint8), empty.astype(np.uint8), empty)
    ]
    numbers = np.arange(shard.start, shard.stop)
    if asked.rows is not None:
        numbers = within(shard, asked.rows)
    for images, labels, rows in shard.blocks(asked.rows):
        own = np.arange(len(images)) if rows is None else rows
        for start in range(0, len(own), DATA_ROWS):
            some = own[start : start + DATA_ROWS]
            found.append(_compared(asked, images[some], labels[some], numbers[: len(some)]))
            numbers = numbers[len(some) :]
    return reduce(DataFound.combine, found)


def _compared(
    asked: DataAsked, images: NDArray[np.uint8], labels: NDArray[np.uint8], numbers: Rows
) -> DataFound:
    """Compare the gradient in some rows' pixels with its differences."""
    compared = compare_data_gradient(
        asked.W, images, labels, mean=asked.mean, step=asked.step, scheme=asked.scheme
    )
    return DataFound(
        Findings.of(compared, numbers),
        compared.relative_error_after_kinks.max(axis=0, initial=0.0),
        compared.crossings.sum(axis=0),
        len(numbers),
    )
