"""Vector instructions for many trials at once, one per lane: integer scores and hinges.

As in `kernels.simd.tiles`, the functions generate code for the compiled loops that call them (in
`kernels.compiled.trial_scores`), with addresses and byte strides as integers. The lanes of a vector
are the `LANES` trials of one group. A row has the same label in all lanes, so no gather is needed.
"""

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernels.exact_sum import LARGEST_LOSS, LIMB_BITS, LOSS_LIMBS
from kernels.simd.tiles import (
    I16,
    I32,
    I64,
    VECTOR_BYTES,
    WIDE_REGISTERS,
    accumulators,
    load,
    shuffle,
    spread,
    store,
)

LANES = 16
"""Trials per group: the number of int32 in 64 bytes."""

TILE_ROWS, TILE_CLASSES = (12, 2) if WIDE_REGISTERS else (6, 1)
"""Rows and classes that are scored at once."""

_SUMS, _PAIRS = ir.VectorType(I32, LANES), ir.VectorType(I16, 2 * LANES)
_F64 = ir.DoubleType()
_LOSSES, _LIMBS = ir.VectorType(_F64, LANES), ir.VectorType(I64, LANES)


def _pair_products(builder: Any, a: Any, b: Any) -> Any:
    """Multiply two vectors of int16 and add neighbouring products, giving half as many int32.

    LLVM compiles this to VPMADDWD, or together with the sum that follows to VPDPWSSD.
    """
    wide = ir.VectorType(I32, a.type.count)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even = shuffle(builder, products, products, range(0, wide.count, 2))
    odd = shuffle(builder, products, products, range(1, wide.count, 2))
    return builder.add(even, odd)


@intrinsic
def pair_product_tile(
    _typing: Any,
    pixels: Any,
    pixels_stride: Any,
    panel: Any,
    pairs: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """Compute the scores of `TILE_ROWS` rows for `TILE_CLASSES` classes of `LANES` trials.

    Products of int16 are summed in int32, which wraps around. A score is exact if it fits in int32.
    All arguments are integers. `pixels` is the address of the first row's pixels, int16, and
    `pixels_stride` is the number of bytes from one row to the next. `panel` is the address of the
    weights, int16, in the order (pair of pixels, class, trial, pixel of the pair), and `pairs` is
    the number of pairs. `out` is the address of the first row's scores, int32 in the order
    (class, trial), and `out_stride` is the number of bytes from one row to the next.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pixels, pixels_stride, panel, pairs, out, out_stride = arguments
        rows = [builder.add(pixels, builder.mul(pixels_stride, I64(i))) for i in range(TILE_ROWS)]
        sums = [accumulators(builder, TILE_CLASSES, _SUMS) for _ in rows]
        with cgutils.for_range(builder, pairs) as loop:
            group = builder.mul(loop.index, I64(VECTOR_BYTES * TILE_CLASSES))
            classes = builder.add(panel, group)
            weights = [
                load(builder, builder.add(classes, I64(VECTOR_BYTES * j)), _PAIRS, 2)
                for j in range(TILE_CLASSES)
            ]
            for row, row_sums in zip(rows, sums, strict=True):
                pair = load(builder, builder.add(row, builder.mul(loop.index, I64(4))), I32, 2)
                pixel_pairs = builder.bitcast(spread(builder, _SUMS, pair), _PAIRS)
                for slot, class_weights in zip(row_sums, weights, strict=True):
                    products = _pair_products(builder, pixel_pairs, class_weights)
                    builder.store(builder.add(builder.load(slot), products), slot)
        for row_sums in sums:
            for j, slot in enumerate(row_sums):
                store(builder, builder.load(slot), builder.add(out, I64(VECTOR_BYTES * j)), 4)
            out = builder.add(out, out_stride)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 6), generate


def _row_scores(builder: Any, scores: Any, base: Any, unit: Any, offsets: Any) -> Any:
    """Return the scores `(base + scores) unit + offsets` of a class in all lanes.

    `scores`, `base` and `offsets` are addresses.
    """
    whole = builder.sitofp(load(builder, scores, _SUMS, 4), _LOSSES)
    whole = builder.fadd(spread(builder, _LOSSES, load(builder, base, _F64, 8)), whole)
    return builder.fadd(builder.fmul(whole, unit), load(builder, offsets, _LOSSES, 8))


def _add_limbs(builder: Any, loss: Any, limbs: Any, overflows: Any) -> None:
    """Add the losses of all lanes to `limbs` (LOSS_LIMBS, LANES).

    It does for every lane what `kernels.compiled.gradient.add_loss` does for one loss.
    """
    zero, limb = ir.Constant(_LOSSES, [0.0] * LANES), ir.Constant(_LOSSES, [2.0**LIMB_BITS] * LANES)
    usable = builder.and_(
        builder.fcmp_ordered(">=", loss, zero),
        builder.fcmp_ordered("<", loss, ir.Constant(_LOSSES, [LARGEST_LOSS] * LANES)),
    )
    more = builder.zext(builder.not_(usable), _LIMBS)
    store(builder, builder.add(load(builder, overflows, _LIMBS, 8), more), overflows, 8)
    floor = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_LOSSES, [_LOSSES]), f"llvm.floor.v{LANES}f64"
    )
    rest = builder.fdiv(builder.select(usable, loss, zero), limb)
    for number in range(LOSS_LIMBS - 1, -1, -1):
        whole = builder.call(floor, [rest])
        address = builder.add(limbs, I64(number * LANES * 8))
        total = builder.add(load(builder, address, _LIMBS, 8), builder.fptosi(whole, _LIMBS))
        store(builder, total, address, 8)
        rest = builder.fmul(builder.fsub(rest, whole), limb)


@intrinsic
def add_row_losses(
    _typing: Any,
    scores: Any,
    base: Any,
    offsets: Any,
    classes: Any,
    label: Any,
    unit: Any,
    delta: Any,
    limbs: Any,
    overflows: Any,
) -> Any:
    """Add one row's loss in every lane to the limbs.

    The scores are `(base + scores) unit + offsets`. The loss is bit-identical to that of
    `kernels.compiled.gradient.margins` in float64, with the same order of sums. These arguments are
    addresses: `scores` (C, LANES) int32 and `base` (C,) float64 of the row, both in units;
    `offsets` (C, LANES) float64; `limbs` (LOSS_LIMBS, LANES) and `overflows` (LANES,) int64.
    `classes` and `label` are integers, `unit` and `delta` are floats.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        scores, base, offsets, classes, label, unit, delta, limbs, overflows = arguments
        unit, delta = (spread(builder, _LOSSES, value) for value in (unit, delta))

        def score(j: Any) -> Any:
            steps = ((scores, 4 * LANES), (base, 8), (offsets, 8 * LANES))
            at = [builder.add(start, builder.mul(j, I64(step))) for start, step in steps]
            return _row_scores(builder, at[0], at[1], unit, at[2])

        zero, lowest = (ir.Constant(_LOSSES, [value] * LANES) for value in (0.0, -math.inf))
        correct = score(label)
        [slot] = accumulators(builder, 1, _LOSSES)
        with cgutils.for_range(builder, classes) as loop:
            margin = builder.fadd(builder.fsub(score(loop.index), correct), delta)
            # a non-finite margin is added unchanged, so that the sum is not finite either
            inactive = builder.and_(
                builder.fcmp_ordered("<=", margin, zero),
                builder.fcmp_ordered(">", margin, lowest),
            )
            hinge = builder.select(inactive, zero, margin)
            own = builder.icmp_signed("==", loop.index, label)
            hinge = builder.select(own, zero, hinge)
            builder.store(builder.fadd(builder.load(slot), hinge), slot)
        _add_limbs(builder, builder.load(slot), limbs, overflows)
        return context.get_dummy_value()

    integers, floats = types.intp, types.float64
    return types.void(*(integers,) * 5, floats, floats, integers, integers), generate
