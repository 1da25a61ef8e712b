"""Vector instructions for many trials at once, one per lane: integer scores and their hinges.

As in `kernels.simd.tiles`, the functions generate code for the compiled loops that call them (in
`kernels.compiled.trial_scores`), with addresses and byte strides as integers. A group of `LANES`
trials stands side by side, so that a row's label is one for all lanes and nothing is gathered.
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
"""Trials in a group: the int32 of 64 bytes."""

TILE_ROWS, TILE_CLASSES = (12, 2) if WIDE_REGISTERS else (6, 1)
"""Rows and classes that are scored at once."""

_SUMS, _PAIRS = ir.VectorType(I32, LANES), ir.VectorType(I16, 2 * LANES)
_F64 = ir.DoubleType()
_LOSSES, _LIMBS = ir.VectorType(_F64, LANES), ir.VectorType(I64, LANES)


def _pair_products(builder: Any, a: Any, b: Any) -> Any:
    """Multiply two vectors of int16 and add neighbours: half as many int32.

    LLVM knows it for VPMADDWD, and with the sum that follows for VPDPWSSD.
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
    """Take the scores of `TILE_ROWS` rows in `TILE_CLASSES` classes of `LANES` trials.

    Products of int16 are summed in int32, which wraps: exact where the sum fits. All
    arguments are integers: the address of the first row's pixels, int16, and the bytes from
    one row to the next; the address of the weights, int16, in the order (pair of pixels,
    class, trial, pixel of the pair); the number of pairs; where the first row's scores go,
    int32 in the order (class, trial), and the bytes from one row's to the next's.
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
    """Return a class's scores `(base + scores) unit + offsets` in all lanes, from addresses."""
    whole = builder.sitofp(load(builder, scores, _SUMS, 4), _LOSSES)
    whole = builder.fadd(spread(builder, _LOSSES, load(builder, base, _F64, 8)), whole)
    return builder.fadd(builder.fmul(whole, unit), load(builder, offsets, _LOSSES, 8))


def _add_limbs(builder: Any, loss: Any, limbs: Any, overflows: Any) -> None:
    """Add the losses to `LOSS_LIMBS` x `LANES` limbs, as `kernels.compiled.gradient.add_loss`
    adds one."""
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

    The scores `(base + scores) unit + offsets` and the order of the sums are those of
    `kernels.compiled.gradient.margins` in float64, to the last bit. The addresses are those of the
    row's scores (C, LANES) int32 and of its base (C,) float64, both in units, of the offsets
    (C, LANES) float64, and of the limbs (LOSS_LIMBS, LANES) and overflows (LANES,) int64;
    `classes` and `label` are integers, `unit` and `delta` floats.
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
            # a margin that is not finite is added as it is: the sum is then not finite either
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
