"""Vector instructions for differences of hinges: eight columns of pixels at once.

As in `kernels.vector`, the functions generate code for the compiled loops that call them (in
`kernels.difference_loops`), with addresses and byte strides as integers.

A difference is added up as a whole number of units: adding `magic`, which is 1.5 * 2^52 units,
rounds it to whole units, and the bits of the sum, less those of `magic`, are their number. So
the total has no order, and is as quick as one of floats.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernels.vector import I8, I64, WIDE_REGISTERS, accumulators, load, spread, store

LANES = 8
"""Columns in a vector: 64 bytes of float64."""

TILE_CLASSES, TILE_VECTORS = (5, 2) if WIDE_REGISTERS else (2, 1)
"""Classes, and vectors of columns, whose sums are held in registers."""

TILE_COLUMNS = LANES * TILE_VECTORS

_F64 = ir.DoubleType()
_VALUES, _PIXELS, _UNITS = (ir.VectorType(kind, LANES) for kind in (_F64, I8, I64))
_VECTOR_BYTES = 8 * LANES


def _hinge(builder: Any, margin: Any) -> Any:
    zero = ir.Constant(_VALUES, [0.0] * LANES)
    return builder.select(builder.fcmp_ordered(">", margin, zero), margin, zero)


def _add(builder: Any, slot: Any, value: Any, magic: Any) -> None:
    """Add a value in whole units, and the bits of `magic`, to a slot."""
    units = builder.bitcast(builder.fadd(value, magic), _UNITS)
    builder.store(builder.add(builder.load(slot), units), slot)


def _combine(builder: Any, combine: Any, address: Any, slots: Sequence[Any], magics: Any) -> None:
    """Add the slots, less so many bits of `magic`, to consecutive vectors, or subtract them."""
    for slot in slots:
        units = builder.sub(builder.load(slot), magics)
        store(builder, combine(load(builder, address, _UNITS, 8), units), address, 8)
        address = builder.add(address, I64(_VECTOR_BYTES))


def _moves(builder: Any, pixels: Any, mean: Any, step: Any) -> list[Any]:
    """Return how far the step moves a margin by each column: `step * (pixel - mean)`."""
    moves = []
    for _ in range(TILE_VECTORS):
        raw = builder.uitofp(load(builder, pixels, _PIXELS), _VALUES)
        centred = builder.fsub(raw, load(builder, mean, _VALUES, 8))
        moves.append(builder.fmul(centred, step))
        pixels = builder.add(pixels, I64(LANES))
        mean = builder.add(mean, I64(_VECTOR_BYTES))
    return moves


def _add_hinges(
    builder: Any, margin: Any, move: Any, slots: Sequence[Any], magic: Any, *, centred: bool
) -> None:
    """Add a margin's difference to the slot of its class, and less that of the own class.

    The own class's score lowers the margin, so it gets what it is subtracted from.
    """
    class_slot, own_slot = slots
    up = _hinge(builder, builder.fadd(margin, move))
    down = _hinge(builder, builder.fsub(margin, move))
    if centred:
        difference = builder.fsub(up, down)
        _add(builder, class_slot, difference, magic)
        _add(builder, own_slot, difference, magic)
    else:
        here = _hinge(builder, margin)
        _add(builder, class_slot, builder.fsub(up, here), magic)
        _add(builder, own_slot, builder.fsub(here, down), magic)


def _generator(*, centred: bool) -> Any:
    """Return the code generator of a tile in one scheme."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, n, column, labels, margins, stride, mean, step, magic, sums, first, row = arguments
        step, magic = (spread(builder, _VALUES, value) for value in (step, magic))
        bits = builder.bitcast(magic, _UNITS)
        class_slots = [accumulators(builder, TILE_VECTORS, _UNITS) for _ in range(TILE_CLASSES)]
        own_slots = accumulators(builder, TILE_VECTORS, _UNITS)
        with cgutils.for_range(builder, n) as loop:
            at = builder.add(rows, builder.mul(loop.index, I64(8)))
            pixels = builder.add(load(builder, at, I64, 8), column)
            moves = _moves(builder, pixels, mean, step)
            at = builder.add(margins, builder.mul(loop.index, stride))
            for slot in own_slots:
                builder.store(ir.Constant(_UNITS, [0] * LANES), slot)
            for j in range(TILE_CLASSES):
                margin = load(builder, builder.add(at, I64(8 * j)), _F64, 8)
                margin = spread(builder, _VALUES, margin)
                for move, *slots in zip(moves, class_slots[j], own_slots, strict=True):
                    _add_hinges(builder, margin, move, slots, magic, centred=centred)
            label = builder.zext(load(builder, builder.add(labels, loop.index), I8), I64)
            own = builder.add(sums, builder.mul(label, row))
            magics = builder.mul(bits, ir.Constant(_UNITS, [TILE_CLASSES] * LANES))
            _combine(builder, builder.sub, own, own_slots, magics)
        magics = builder.mul(bits, spread(builder, _UNITS, n))
        for j, slots in enumerate(class_slots):
            address = builder.add(sums, builder.mul(builder.add(first, I64(j)), row))
            _combine(builder, builder.add, address, slots, magics)
        return context.get_dummy_value()

    return generate


_SIGNATURE = types.void(*(types.intp,) * 7, types.float64, types.float64, *(types.intp,) * 3)


@intrinsic
def centred_tile(
    _typing: Any,
    rows: Any,
    n: Any,
    column: Any,
    labels: Any,
    margins: Any,
    margins_stride: Any,
    mean: Any,
    step: Any,
    magic: Any,
    sums: Any,
    first: Any,
    sums_stride: Any,
) -> Any:
    """Add the centred differences of some rows' hinges to the sums of their classes.

    It works on `TILE_CLASSES` classes and `TILE_COLUMNS` columns. All but `step` and `magic`
    are integers: the address of the rows' addresses, and how many rows there are; the first
    column; the address of the labels, uint8; that of the first row's margins in the tile's
    classes, float64, minus infinity in its own class, and the bytes from one row's to the
    next's; that of the mean image at the first column, float64; that of class 0's sums at the
    first column, int64; the tile's first class; the bytes from one class's sums to the next's.
    """
    return _SIGNATURE, _generator(centred=True)


@intrinsic
def forward_tile(
    _typing: Any,
    rows: Any,
    n: Any,
    column: Any,
    labels: Any,
    margins: Any,
    margins_stride: Any,
    mean: Any,
    step: Any,
    magic: Any,
    sums: Any,
    first: Any,
    sums_stride: Any,
) -> Any:
    """Add the forward differences; otherwise as `centred_tile`."""
    return _SIGNATURE, _generator(centred=False)
