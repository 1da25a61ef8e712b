"""Vector instructions for exact sums of losses along a line, at several step sizes at a time.

As in `kernels.simd.tiles`, the function generates code for the compiled loop that calls it (in
`kernels.compiled.lines`), with addresses and byte strides as integers. A vector contains `ROWS`
rows of one class. A lane sums the hinges of one row in the order of its classes, so that the loss
is bit-identical to that of plain loops.

Losses are added in floating point, but exactly. Each is split into a multiple of 2^-31 and a
remainder, which is rounded down to a multiple of 2^-80. A lane has one sum for each of the two
parts. Neither sum needs more than 53 bits if no loss reaches 2^17. Numbers are rounded to a unit
by adding and subtracting a large number. This is faster than splitting with integers, which is
done for blocks with larger losses.

J. Demmel and H. D. Nguyen, "Fast Reproducible Floating-Point Summation", ARITH 21, 2013.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernels.simd.tiles import (
    I64,
    VECTOR_BYTES,
    accumulators,
    fused_multiply_add,
    load,
    spread,
    store,
)

ROWS = VECTOR_BYTES // 8
"""Rows in a vector."""

STEPS = 4
"""Step sizes per tile: as many as fit in the registers together with their sums."""

COARSE_BITS, FINE_BITS = 31, 80
"""The two parts of a loss are multiples of 2^-31 and of 2^-80."""

LARGEST = 2.0**17
"""Losses must be below this, or the sums of a lane are not exact."""

MOST_VECTORS = 32
"""Largest number of vectors per tile: a lane's sum has 17 + 5 + 31 = 53 bits, which fit float64."""

_LOSSES = ir.VectorType(ir.DoubleType(), ROWS)
_FLAGS = ir.VectorType(ir.IntType(1), ROWS)
_WHOLE = ir.VectorType(I64, ROWS)


def _all(value: float) -> Any:
    return ir.Constant(_LOSSES, [value] * ROWS)


def _rounded(builder: Any, value: Any, bits: int) -> Any:
    """Round numbers below 2^(51 - bits) to the nearest multiple of 2^-bits."""
    large = _all(1.5 * 2.0 ** (52 - bits))
    return builder.fsub(builder.fadd(value, large), large)


def _add_parts(builder: Any, loss: Any, coarse_sum: Any, fine_sum: Any) -> None:
    """Split the losses into two parts, rounded down, and add each part to its sum."""
    coarse = _rounded(builder, loss, COARSE_BITS)
    rest = builder.fsub(loss, coarse)
    fine = _rounded(builder, rest, FINE_BITS)
    one = builder.select(builder.fcmp_ordered(">", fine, rest), _all(2.0**-FINE_BITS), _all(0.0))
    for slot, part in (coarse_sum, coarse), (fine_sum, builder.fsub(fine, one)):
        builder.store(builder.fadd(builder.load(slot), part), slot)


def _add_hinges(
    builder: Any, margins: Any, slopes: Any, steps: Sequence[Any], sums: Sequence[Any]
) -> None:
    """Add `max(0, margin + step * slope)` of one class to the rows' sums at each step."""
    margin, slope = load(builder, margins, _LOSSES, 8), load(builder, slopes, _LOSSES, 8)
    fma, zero = fused_multiply_add(builder, _LOSSES), _all(0.0)
    for step, slot in zip(steps, sums, strict=True):
        at_step = builder.call(fma, [step, slope, margin])
        # nan is not below 0, so it is added to the sum
        hinge = builder.select(builder.fcmp_ordered("<", at_step, zero), zero, at_step)
        builder.store(builder.fadd(builder.load(slot), hinge), slot)


def _total(builder: Any, sums: Any, bits: int) -> Any:
    """Return the sum of all lanes in units of 2^-bits, as an integer."""
    whole = builder.fptosi(builder.fmul(sums, _all(2.0**bits)), _WHOLE)
    lanes = [builder.extract_element(whole, ir.Constant(I64, lane)) for lane in range(ROWS)]
    total = lanes[0]
    for lane in lanes[1:]:
        total = builder.add(total, lane)
    return total


@intrinsic
def sum_losses_tile(
    _typing: Any,
    margins: Any,
    slopes: Any,
    stride: Any,
    classes: Any,
    vectors: Any,
    steps: Any,
    out: Any,
) -> Any:
    """Sum the losses of some rows at `STEPS` step sizes.

    All arguments are integers. `margins` and `slopes` are the addresses of the rows' values for
    the first wrong class, and `stride` is the number of bytes from one class to the next.
    `classes` is the number of wrong classes. `vectors` is the number of vectors of `ROWS` rows, at
    most `MOST_VECTORS`. `steps` is the address of the step sizes. `out` is the address of the
    results, int64: for each step size the two sums in units of 2^-31 and 2^-80, and at the end a
    flag that is 0 if all losses were below `LARGEST`. If it is not 0, the sums are invalid.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        margins, slopes, stride, classes, vectors, steps, out = arguments
        sizes = [
            spread(
                builder, _LOSSES, load(builder, builder.add(steps, I64(8 * k)), _LOSSES.element, 8)
            )
            for k in range(STEPS)
        ]
        coarse, fine = (accumulators(builder, STEPS, _LOSSES) for _ in range(2))
        large = accumulators(builder, 1, _FLAGS)[0]
        with cgutils.for_range(builder, vectors) as vector:
            losses = accumulators(builder, STEPS, _LOSSES)
            for slot in losses:
                builder.store(_all(0.0), slot)
            start = builder.mul(vector.index, I64(VECTOR_BYTES))
            with cgutils.for_range(builder, classes) as loop:
                offset = builder.add(start, builder.mul(loop.index, stride))
                at = builder.add(margins, offset), builder.add(slopes, offset)
                _add_hinges(builder, *at, sizes, losses)
            for slot, coarse_sum, fine_sum in zip(losses, coarse, fine, strict=True):
                loss = builder.load(slot)
                fits = builder.fcmp_ordered("<", loss, _all(LARGEST))
                builder.store(builder.or_(builder.load(large), builder.not_(fits)), large)
                _add_parts(builder, loss, coarse_sum, fine_sum)
        for k, slots in enumerate(zip(coarse, fine, strict=True)):
            for part, (slot, bits) in enumerate(zip(slots, (COARSE_BITS, FINE_BITS), strict=True)):
                total = _total(builder, builder.load(slot), bits)
                store(builder, total, builder.add(out, I64(8 * (2 * k + part))), 8)
        flags = builder.zext(builder.bitcast(builder.load(large), ir.IntType(ROWS)), I64)
        store(builder, flags, builder.add(out, I64(8 * 2 * STEPS)), 8)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 7), generate
