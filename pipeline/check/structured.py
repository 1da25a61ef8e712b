"""Structured gradient checks over all shards: analytic gradients against finite differences.

The analytic gradient is the one that training uses (`pipeline.objective`). The differences come
from one pass over the same rows, which never uses the formula of the gradient. The sums are
integers, and the bounds are computed from integers, so the result of a check does not depend on
the shards or the workers.
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
from pipeline.cluster.wanted import check_wanted
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows

Floats = NDArray[np.float64]

DATA_ROWS = 128
"""Number of rows whose pixels are compared at a time. The comparison takes about 40 MB."""


class DifferenceRequest(NamedTuple):
    """The inputs of `sum_differences`."""

    probe: Probe
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""


@shown_as("hinge-differences")
def sum_differences(shard: Shard, request: DifferenceRequest) -> Differences:
    """Sum the differences over the requested rows of the shard."""

    def sum_block(block: Block) -> Differences:
        return differences(request.probe, block.images, block.labels, rows=block.rows)

    return sum_over_blocks(shard, request.rows, sum_block)


def make_probe(W: Floats, mean: Floats, check: GradientCheck) -> Probe:
    """Return the probe of a check: the weights and the step of its differences."""
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

    Raises PipelineError if the step is so small that adding it leaves some weight unchanged.
    """
    try:
        regulariser = regulariser_quotient(
            W, check.reg, probe.step, probe.scheme, reg_bias=check.reg_bias
        )
    except ValueError as error:
        raise PipelineError(f"{error}; take a larger step") from error
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
    """Return the comparison of only `coordinates` (k,), indices into the flattened arrays."""
    arrays = (getattr(comparison, field.name) for field in fields(comparison))
    return Comparison(*(np.ravel(array)[coordinates] for array in arrays))


class PixelDifferenceRequest(NamedTuple):
    """The inputs of `compare_pixels`."""

    W: Floats
    """(C, D + 1)."""
    mean: Floats
    """The mean training image (D,)."""
    step: float
    """The difference step h, in units of pixel values."""
    scheme: Scheme
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""


class PixelDifferences(NamedTuple):
    """A summary of the comparison of pixel gradients over some rows."""

    findings: Findings
    errors: Floats
    """(D,): the largest relative error of each pixel after kinks are accounted for."""
    crossings: NDArray[np.int64]
    """(D,): the number of margins that cross their kink, per pixel."""
    rows: int

    def combine(self, other: "PixelDifferences", /) -> "PixelDifferences":
        """Return the summary over both sets of rows."""
        return PixelDifferences(
            self.findings.combine(other.findings),
            np.maximum(self.errors, other.errors),
            self.crossings + other.crossings,
            self.rows + other.rows,
        )


@shown_as("hinge-pixel-differences")
def compare_pixels(shard: Shard, request: PixelDifferenceRequest) -> PixelDifferences:
    """Compare the pixel gradient of each row of the shard with finite differences.

    The findings name rows by their numbers in the split.
    """
    parts = (_compare_batch(request, *batch) for batch in _batches(shard, request.rows))
    return reduce(PixelDifferences.combine, parts)


def _batches(
    shard: Shard, rows: Rows | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], Rows]]:
    """Yield the images, labels and row numbers of the shard, `DATA_ROWS` rows at a time.

    If the shard has none of the rows, yield one empty batch.
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
    """Compare the pixel gradients of some rows with finite differences."""
    check_wanted()
    comparison = compare_pixel_gradient(
        request.W, images, labels, mean=request.mean, step=request.step, scheme=request.scheme
    )
    return PixelDifferences(
        Findings.of(comparison, numbers),
        comparison.relative_error_after_kinks.max(axis=0, initial=0.0),
        comparison.crossings.sum(axis=0),
        len(numbers),
    )
