"""Vector instructions for differences of hinges, several columns of pixels at once.

As in `kernels.simd.tiles`, the functions generate code for the compiled loops that call them (in
`kernels.compiled.differences`). Addresses and byte strides are integers.

A difference is summed as a whole number of units. Adding `magic`, which is 1.5 * 2^52 units,
rounds the difference to whole units. The bits of the result minus the bits of `magic` are the
number of units. So the total does not depend on the order, and summing is as fast as with floats.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernels.simd.tiles import (
    I8,
    I64,
    WIDE_REGISTERS,
    accumulators,
    fused_multiply_add,
    load,
    spread,
    store,
)

TILE_CLASSES, TILE_VECTORS, LANES = (5, 2, 8) if WIDE_REGISTERS else (5, 2, 4)
"""The classes, the vectors, and the columns per vector whose sums are kept in registers.

The results do not depend on them."""

TILE_COLUMNS = LANES * TILE_VECTORS

_F64 = ir.DoubleType()
_VALUES, _PIXELS, _UNITS = (ir.VectorType(kind, LANES) for kind in (_F64, I8, I64))
_VECTOR_BYTES = 8 * LANES


class _Constants(NamedTuple):
    """The constants that stay in registers."""

    step: Any
    magic: Any
    zero: Any
    fma: Any

    @classmethod
    def of(cls, builder: Any, step: Any, magic: Any) -> "_Constants":
        step, magic = (spread(builder, _VALUES, value) for value in (step, magic))
        # If LLVM cannot tell that this is zero, it compiles a hinge to a single instruction.
        zero = builder.fsub(magic, magic)
        return cls(step, magic, zero, fused_multiply_add(builder, _VALUES))


def _hinge(builder: Any, margin: Any, zero: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", margin, zero), margin, zero)


def _add(builder: Any, slot: Any, units: Any) -> None:
    builder.store(builder.add(builder.load(slot), units), slot)


def _combine(builder: Any, combine: Any, address: Any, slots: Sequence[Any], magics: Any) -> None:
    """Combine the slots, minus `magics`, with consecutive vectors from `address`.

    `combine` adds or subtracts. `magics` is the total that the bits of `magic` have contributed.
    """
    for slot in slots:
        units = builder.sub(builder.load(slot), magics)
        store(builder, combine(load(builder, address, _UNITS, 8), units), address, 8)
        address = builder.add(address, I64(_VECTOR_BYTES))


def _centred(builder: Any, pixels: Any, mean: Any) -> list[Any]:
    """Return vectors of centred pixels, from the addresses of the pixels and of the mean image."""
    vectors = []
    for _ in range(TILE_VECTORS):
        raw = builder.uitofp(load(builder, pixels, _PIXELS), _VALUES)
        vectors.append(builder.fsub(raw, load(builder, mean, _VALUES, 8)))
        pixels = builder.add(pixels, I64(LANES))
        mean = builder.add(mean, I64(_VECTOR_BYTES))
    return vectors


def _units(builder: Any, more: Any, less: Any, magic: Any) -> Any:
    """Return a difference in whole units, plus the bits of `magic`."""
    return builder.bitcast(builder.fadd(builder.fsub(more, less), magic), _UNITS)


def _add_hinges(
    builder: Any, margin: Any, x: Any, slots: Sequence[Any], constants: _Constants, *, centred: bool
) -> None:
    """Add a margin's difference to the slot of its class, and to the slot of the row's own class.

    Raising the score of the own class lowers the margin. The amount by which this lowers the hinge
    is added to the own slot, whose total is subtracted later. In the centred scheme the amount is
    equal to the class's difference, so it is not summed separately.
    """
    class_slot, own_slot = slots
    step, magic, zero, fma = constants
    up = _hinge(builder, builder.call(fma, [x, step, margin]), zero)
    down = _hinge(builder, builder.call(fma, [builder.fneg(x), step, margin]), zero)
    if centred:
        _add(builder, class_slot, _units(builder, up, down, magic))
    else:
        here = _hinge(builder, margin, zero)
        _add(builder, class_slot, _units(builder, up, here, magic))
        _add(builder, own_slot, _units(builder, here, down, magic))


def _generator(*, centred: bool) -> Any:
    """Return the code generator of a tile for the centred or the forward scheme."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, n, column, margins, stride, mean, step, magic, sums, first, label, row = arguments
        constants = _Constants.of(builder, step, magic)
        class_slots = [accumulators(builder, TILE_VECTORS, _UNITS) for _ in range(TILE_CLASSES)]
        own_slots = accumulators(builder, TILE_VECTORS, _UNITS)
        with cgutils.for_range(builder, n) as loop:
            at = builder.add(rows, builder.mul(loop.index, I64(8)))
            xs = _centred(builder, builder.add(load(builder, at, I64, 8), column), mean)
            at = builder.add(margins, builder.mul(loop.index, stride))
            for j in range(TILE_CLASSES):
                margin = load(builder, builder.add(at, I64(8 * j)), _F64, 8)
                margin = spread(builder, _VALUES, margin)
                for x, *slots in zip(xs, class_slots[j], own_slots, strict=True):
                    _add_hinges(builder, margin, x, slots, constants, centred=centred)
        if centred:
            for slots in class_slots:
                for slot, own_slot in zip(slots, own_slots, strict=True):
                    _add(builder, own_slot, builder.load(slot))
        bits = builder.bitcast(constants.magic, _UNITS)
        magics = builder.mul(bits, spread(builder, _UNITS, n))
        for j, slots in enumerate(class_slots):
            address = builder.add(sums, builder.mul(builder.add(first, I64(j)), row))
            _combine(builder, builder.add, address, slots, magics)
        own = builder.add(sums, builder.mul(label, row))
        magics = builder.mul(magics, ir.Constant(_UNITS, [TILE_CLASSES] * LANES))
        _combine(builder, builder.sub, own, own_slots, magics)
        return context.get_dummy_value()

    return generate


_SIGNATURE = types.void(*(types.intp,) * 6, types.float64, types.float64, *(types.intp,) * 4)


@intrinsic
def centred_tile(
    _typing: Any,
    rows: Any,
    n: Any,
    column: Any,
    margins: Any,
    margins_stride: Any,
    mean: Any,
    step: Any,
    magic: Any,
    sums: Any,
    first: Any,
    label: Any,
    sums_stride: Any,
) -> Any:
    """Add the centred differences of the hinges of rows with one label to their sums.

    A tile has `TILE_CLASSES` classes and `TILE_COLUMNS` columns. All arguments except `step` and
    `magic` are integers:

    * `rows`: the address of the rows' addresses; `n`: the number of rows;
    * `column`: the tile's first column;
    * `margins`: the address of the first row's margins in the tile's classes, float64, with minus
      infinity for the row's own class; `margins_stride`: the bytes from one row to the next;
    * `mean`: the address of the mean image at the first column, float64;
    * `step`: the difference step h; `magic`: see the module;
    * `sums`: the address of class 0's sums at the first column, int64; `sums_stride`: the bytes
      from one class to the next;
    * `first`: the tile's first class; `label`: the label of the rows.
    """
    return _SIGNATURE, _generator(centred=True)


@intrinsic
def forward_tile(
    _typing: Any,
    rows: Any,
    n: Any,
    column: Any,
    margins: Any,
    margins_stride: Any,
    mean: Any,
    step: Any,
    magic: Any,
    sums: Any,
    first: Any,
    label: Any,
    sums_stride: Any,
) -> Any:
    """Add the forward differences; the arguments are those of `centred_tile`."""
    return _SIGNATURE, _generator(centred=False)
