"""Gradient checks over all shards: the pipeline's own gradient compared with finite differences.

The gradient is the one that training uses (`pipeline.objective`). The differences come from one
pass over the same rows, which never uses the gradient's formula. Sums are integers, and so are the
numbers that bounds are made of, so a check finds the same wherever it runs.
"""

from collections.abc import Iterator
from dataclasses import fields
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.data_difference import compare_pixel_gradient
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
from pipeline.check.parameters import NO_FINITE_LOSS, GradientCheck
from pipeline.cluster.map_shards import MapShards, shown_as, sum_over_shards
from pipeline.cluster.shards import Block, Shard, rows_within, sum_over_blocks
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows

Floats = NDArray[np.float64]

DATA_ROWS = 128
"""How many rows' pixels are compared at a time. They take about 40 MB."""


class DifferenceRequest(NamedTuple):
    """The inputs of `sum_differences`."""

    probe: Probe
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""


@shown_as("hinge-differences")
def sum_differences(shard: Shard, request: DifferenceRequest) -> Differences:
    """Sum the differences over the requested rows that the shard holds."""

    def sum_block(block: Block) -> Differences:
        return differences(request.probe, block.images, block.labels, rows=block.rows)

    return sum_over_blocks(shard, request.rows, sum_block)


def make_probe(W: Floats, mean: Floats, check: GradientCheck) -> Probe:
    """Return the move that a check makes in every row."""
    scorer = fold(W, mean, np.float64)
    slack = slack_of_float32(len(mean)) if check.dtype == "float32" else 0.0
    return Probe(scorer, mean, check.step, check.scheme, slack=slack)


def difference_sums(map_shards: MapShards, request: DifferenceRequest) -> Differences:
    """Sum the differences over all shards.

    Raises PipelineError if margins at these weights are not finite.
    """
    sums = sum_over_shards(map_shards, sum_differences, request)
    if sums.overflows:
        raise PipelineError(NO_FINITE_LOSS)
    return sums


def compare(
    W: Floats, gradient: Floats, probe: Probe, sums: Differences, check: GradientCheck
) -> Comparison:
    """Compare a gradient (C, D + 1) of the loss at `W` with the differences in `sums`.

    Raises PipelineError if the step is lost beside a weight.
    """
    try:
        regulariser = regulariser_quotient(
            W, check.reg, probe.step, probe.scheme, reg_bias=check.reg_bias
        )
    except ValueError as error:
        raise PipelineError(f"{error}; take a larger one") from error
    return Comparison(
        gradient,
        quotient(sums, probe) + regulariser.value,
        kink_part(sums, probe),
        sums.crossings,
        roundoff(sums, probe)
        + regulariser.bound
        + gradient_roundoff(gradient, W, probe.mean, check.reg),
        undecided_part(sums),
    )


def select_coordinates(comparison: Comparison, coordinates: NDArray[np.int64]) -> Comparison:
    """Return the comparison of some coordinates (k,): indices into the flattened arrays."""
    arrays = (getattr(comparison, field.name) for field in fields(comparison))
    return Comparison(*(np.ravel(array)[coordinates] for array in arrays))


class PixelDifferenceRequest(NamedTuple):
    """The inputs of `compare_pixels`."""

    W: Floats
    """(C, D + 1)."""
    mean: Floats
    """The mean training image (D,)."""
    step: float
    scheme: Scheme
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""


class PixelDifferences(NamedTuple):
    """The comparison of some rows' pixels, summed up."""

    findings: Findings
    errors: Floats
    """(D,): the largest relative error of each pixel once kinks are accounted for."""
    crossings: NDArray[np.int64]
    """(D,): how many margins cross their kink, by pixel."""
    rows: int

    def combine(self, other: "PixelDifferences", /) -> "PixelDifferences":
        """Return the sum over both sets of rows."""
        return PixelDifferences(
            self.findings.combine(other.findings),
            np.maximum(self.errors, other.errors),
            self.crossings + other.crossings,
            self.rows + other.rows,
        )


@shown_as("hinge-pixel-differences")
def compare_pixels(shard: Shard, request: PixelDifferenceRequest) -> PixelDifferences:
    """Compare the gradient in each row's pixels with its differences, over a shard's rows.

    The findings name rows by their numbers in the split.
    """
    parts = (_compare_batch(request, *batch) for batch in _batches(shard, request.rows))
    return reduce(PixelDifferences.combine, parts)


def _batches(
    shard: Shard, rows: Rows | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], Rows]]:
    """Yield images, labels and numbers of the shard's rows, `DATA_ROWS` at a time.

    If the shard has none of the rows, there is one empty batch.
    """
    numbers = np.arange(shard.start, shard.stop) if rows is None else rows_within(shard, rows)
    for block in shard.blocks(rows):
        own = np.arange(len(block.images)) if block.rows is None else block.rows
        for start in range(0, max(1, len(own)), DATA_ROWS):
            batch = own[start : start + DATA_ROWS]
            yield block.images[batch], block.labels[batch], numbers[: len(batch)]
            numbers = numbers[len(batch) :]


def _compare_batch(
    request: PixelDifferenceRequest,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    numbers: Rows,
) -> PixelDifferences:
    """Compare the gradient in some rows' pixels with its differences."""
    comparison = compare_pixel_gradient(
        request.W, images, labels, mean=request.mean, step=request.step, scheme=request.scheme
    )
    return PixelDifferences(
        Findings.of(comparison, numbers),
        comparison.relative_error_after_kinks.max(axis=0, initial=0.0),
        comparison.crossings.sum(axis=0),
        len(numbers),
    )
