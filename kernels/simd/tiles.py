"""Vector instructions for the two inner loops, written in LLVM so that the order of sums is fixed.

A vectorising compiler may sum the products of a row in any order, and in another order for another
processor. The last bits of a score would then depend on the machine, or on the row's position in a
tile. Here the order is part of the program: 64 bytes of partial sums per score, fused
multiply-adds, then a tree of halves. Results are bit-identical on all processors. A processor
without 512-bit registers is only slower.

The functions are code generators (Numba intrinsics). A compiled loop in
`kernels.compiled.gradient` calls them with addresses and byte strides as integers, and they are
inlined there.
"""

from collections.abc import Sequence
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

VECTOR_BYTES = 64
"""The width of a vector: 16 float32 or 8 float64 partial sums, or the pixels of 64 columns.

Rows are padded to a multiple of this number of columns, so that all vectors are full."""

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOATS = {4: ir.FloatType(), 8: ir.DoubleType()}


def host_has(feature: str) -> bool:
    """Return whether Numba compiles for a processor with `feature` (an LLVM name)."""
    features = numba.config.CPU_FEATURES  # set to compile portable code
    if features is None:
        features = get_host_cpu_features()  # NUMBA_ENABLE_AVX=0 removes some of them
    return f"+{feature}" in features.split(",")


WIDE_REGISTERS = host_has("avx512f")
BYTE_DOT_PRODUCT = host_has("avx512vnni")
"""Whether the processor has the instruction that `outer_product_tile` needs."""

TILE_ROWS, TILE_CLASSES = (4, 5) if WIDE_REGISTERS else (2, 2)
"""Rows and classes scored at once, as many as fit in the registers. They do not affect scores."""


def load(builder: Any, address: Any, kind: Any, align: int = 1) -> Any:
    """Load a value of type `kind` from an address given as an integer."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, address: Any, align: int) -> None:
    """Store a value at an address given as an integer."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def shuffle(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    """Select elements of two vectors by their index in `a` followed by `b`."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


def _halved(builder: Any, vector: Any) -> Any:
    """Sum a vector by adding its upper half to its lower half until one element is left."""
    width = vector.type.count
    while width > 1:
        width //= 2
        low = shuffle(builder, vector, vector, range(width))
        high = shuffle(builder, vector, vector, range(width, 2 * width))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, I32(0))


def fused_multiply_add(builder: Any, kind: Any) -> Any:
    """Return LLVM's fused multiply-add for a float type or for a vector of floats."""
    element = getattr(kind, "element", kind)
    width = f"v{kind.count}" if element is not kind else ""
    bits = 32 if element == _FLOATS[4] else 64
    return cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.{width}f{bits}"
    )


def spread(builder: Any, kind: Any, element: Any) -> Any:
    """Return a vector with `element` in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), element, I32(0))
    return shuffle(builder, one, one, [0] * kind.count)


def accumulators(builder: Any, count: int, kind: Any) -> list[Any]:
    """Return `count` zeroed stack slots, which LLVM turns into registers."""
    zero = ir.Constant(kind, [0] * kind.count)
    slots = [cgutils.alloca_once(builder, kind) for _ in range(count)]
    for slot in slots:
        builder.store(zero, slot)
    return slots


@intrinsic
def dot_product_tile(
    _typing: Any,
    images: Any,
    weights: Any,
    rows: Any,
    weight: Any,
    weight_stride: Any,
    columns: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """Compute the dot products of some rows with the weights of `TILE_CLASSES` classes.

    The arrays `images` (uint8 or the type of the weights) and `weights` (float32 or float64) only
    determine the types. `rows` is a tuple of the rows' addresses. `weight` is the address of the
    first class's weights, and `weight_stride` is the number of bytes from one class to the next.
    `columns` is the number of columns (a multiple of `VECTOR_BYTES`). `out` is the address of the
    first row's scores, and `out_stride` is the number of bytes from one row to the next.
    """
    itemsize = weights.dtype.bitwidth // 8
    bytes_in = images.dtype.bitwidth == 8
    lanes = VECTOR_BYTES // itemsize
    vector = ir.VectorType(_FLOATS[itemsize], lanes)
    source = ir.VectorType(I8, lanes) if bytes_in else vector

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        row_tuple, weight, weight_stride, columns, out, out_stride = arguments[2:]
        addresses = cgutils.unpack_tuple(builder, row_tuple)
        fma = fused_multiply_add(builder, vector)
        sums = [accumulators(builder, TILE_CLASSES, vector) for _ in addresses]
        with cgutils.for_range_slice(builder, I64(0), columns, I64(lanes)) as (column, _):
            offset = builder.mul(column, I64(1 if bytes_in else itemsize))
            pixels = [load(builder, builder.add(a, offset), source) for a in addresses]
            if bytes_in:
                pixels = [builder.uitofp(p, vector) for p in pixels]
            class_weight = builder.add(weight, builder.mul(column, I64(itemsize)))
            for j in range(TILE_CLASSES):
                w = load(builder, class_weight, vector, itemsize)
                class_weight = builder.add(class_weight, weight_stride)
                for row, row_sums in zip(pixels, sums, strict=True):
                    slot = row_sums[j]
                    builder.store(builder.call(fma, [row, w, builder.load(slot)]), slot)
        for row_sums in sums:
            for j, slot in enumerate(row_sums):
                total = _halved(builder, builder.load(slot))
                store(builder, total, builder.add(out, I64(j * itemsize)), itemsize)
            out = builder.add(out, out_stride)
        return context.get_dummy_value()

    return types.void(images, weights, rows, *(types.intp,) * 5), generate


@intrinsic
def multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return `a * b + c` of three floats, rounded once, as in the tiles."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.call(fused_multiply_add(builder, _FLOATS[c.bitwidth // 8]), arguments)

    return c(c, c, c), generate


def _interleaved(unit: int, upper: bool) -> list[int]:
    """Return a shuffle that interleaves two 64-byte vectors by `unit` bytes per 16-byte lane."""
    start = 8 if upper else 0
    return [
        source + lane + start + item * unit + byte
        for lane in range(0, VECTOR_BYTES, 16)
        for item in range(8 // unit)
        for source in (0, VECTOR_BYTES)
        for byte in range(unit)
    ]


def _four_rows(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """Transpose four rows of 64 bytes to four vectors of 16 pixels x 4 rows.

    It shuffles within 16-byte lanes, as the processor does. The element at index `p` of vector
    `v` is therefore pixel `p // 4 * 16 + v * 4 + p % 4`. `_pixel_order` restores the order.
    """
    halves = [
        shuffle(builder, rows[i], rows[i + 1], _interleaved(1, upper))
        for upper in (False, True)
        for i in (0, 2)
    ]
    return [
        shuffle(builder, halves[i], halves[i + 1], _interleaved(2, upper))
        for i in (0, 2)
        for upper in (False, True)
    ]


def _pixel_order(builder: Any, sums: Sequence[Any]) -> Any:
    """Join four vectors of 16 sums in the order of the pixels."""
    low = shuffle(builder, sums[0], sums[1], range(32))
    high = shuffle(builder, sums[2], sums[3], range(32))
    return shuffle(
        builder,
        low,
        high,
        [p % 16 // 4 * 16 + p // 16 * 4 + p % 4 for p in range(VECTOR_BYTES)],
    )


@intrinsic
def outer_product_tile(
    _typing: Any,
    rows: Any,
    groups: Any,
    column: Any,
    factors: Any,
    factors_stride: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """Add `sum_i k_i (outer) row_i`, in 64 columns and `TILE_CLASSES` classes, to int32 sums.

    It uses the processor's dot product of four unsigned and four signed bytes (VPDPBUSD), which is
    exact in int32. All arguments are integers. `rows` is the address of the rows' addresses, and
    `groups` is the number of groups of four rows. `column` is the first column. `factors` is the
    address of the factors k, int8, in the order (group, class, row in group), and
    `factors_stride` is the number of bytes from one group to the next. `out` is the address of the
    sums for the first class and column 0, and `out_stride` is the number of bytes from one class
    to the next.
    """
    sums16, bytes64 = ir.VectorType(I32, 16), ir.VectorType(I8, VECTOR_BYTES)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if not BYTE_DOT_PRODUCT:  # never called then, but compiled together with its caller
            return context.get_dummy_value()
        rows, groups, column, factor, factors_stride, out, out_stride = arguments
        # The types of LLVM 20. Later versions accept and upgrade them.
        dot_type = ir.FunctionType(sums16, [sums16] * 3)
        dot = cgutils.get_or_insert_function(
            builder.module, dot_type, "llvm.x86.avx512.vpdpbusd.512"
        )
        sums = [accumulators(builder, 4, sums16) for _ in range(TILE_CLASSES)]
        with cgutils.for_range(builder, groups) as loop:
            group = builder.add(rows, builder.mul(loop.index, I64(4 * 8)))
            addresses = [load(builder, builder.add(group, I64(8 * i)), I64, 8) for i in range(4)]
            rows64 = [load(builder, builder.add(a, column), bytes64) for a in addresses]
            pixels = [builder.bitcast(p, sums16) for p in _four_rows(builder, rows64)]
            group_factor = builder.add(factor, builder.mul(loop.index, factors_stride))
            for j, class_sums in enumerate(sums):
                k = load(builder, builder.add(group_factor, I64(4 * j)), I32)
                k = spread(builder, sums16, k)
                for slot, four_rows in zip(class_sums, pixels, strict=True):
                    builder.store(builder.call(dot, [builder.load(slot), four_rows, k]), slot)
        out = builder.add(out, builder.mul(column, I64(4)))
        for class_sums in sums:
            total = _pixel_order(builder, [builder.load(slot) for slot in class_sums])
            store(builder, builder.add(load(builder, out, total.type, 4), total), out, 4)
            out = builder.add(out, out_stride)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 7), generate
