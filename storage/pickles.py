"""Safe reading of the pickles of CIFAR-10's python version, without running their code.

A pickle is a program that may call any function it names. The official batches name three objects
of NumPy: the function that makes an empty array, the array class, and `dtype`. Copies written by
Python 3 name two more: a function that encodes bytes and one that makes an array from a buffer.
Each of these names is replaced by a function that can only make a uint8 array or bytes. Any other
name raises DataError before it is looked up.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.errors import DataError
from storage.schema import Bytes


def load_pickle(path: Path) -> dict[object, object]:
    """Return the pickled dict in the file: uint8 arrays, bytes, numbers, lists and dicts.

    Strings of Python 2, as in the official batches, are returned as bytes.

    Raises:
        DataError: The file is damaged, does not contain a dict, or names an object that uint8
            arrays do not need.
        OSError: The file cannot be read.
    """
    content = path.read_bytes()
    try:
        held = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    # A damaged pickle is a random program: the unpickler and NumPy may raise nearly any error.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{path} is not a valid pickle ({reason}); unpack or download the data set again"
        ) from error
    if not isinstance(held, dict):
        raise DataError(f"{path}: the pickle contains a {type(held).__name__}, wanted a dict")
    return {key: _unwrap(value) for key, value in held.items()}


def _unwrap(value: object) -> object:
    return value.array if isinstance(value, _Array) else value


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        replacement = _REPLACEMENTS.get((module.replace("numpy._core", "numpy.core"), name))
        if replacement is None:
            also = f" (os.{name})" if module in {"posix", "nt"} else ""
            raise DataError(
                f"the pickle names {module}.{name}{also}, which no CIFAR-10 batch needs; "
                "nothing was executed. Do not trust this file"
            )
        # A new object each time, because a pickle may set attributes on it.
        return _Call(replacement)


@dataclass(frozen=True)
class _Call:
    """A callable that the pickle gets in place of the object that it names."""

    function: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.function(*arguments)


class _Dtype:
    """Replacement for `numpy.dtype`, which accepts only uint8."""

    def __setstate__(self, state: object) -> None:
        match state:
            case (3, "|" | b"|", None, None, None, -1, -1, 0):
                return
        raise DataError("the pickle's dtype has a state that uint8 never has")


class _Array:
    """An array under construction, empty until the pickle sets its shape and bytes."""

    def __init__(self) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, tuple(shape), _Dtype(), bool() | 0 | 1 as fortran, bytes(data)):
                self.array = _shaped(data, shape, "F" if fortran else "C")
            case _:
                raise DataError("the pickle contains an array that is not plain uint8")


def _shaped(data: bytes | bytearray, shape: object, order: object) -> Bytes:
    match shape, order:
        case tuple(lengths), "C" | "F" as known:
            if all(type(length) is int and length >= 0 for length in lengths):
                return np.frombuffer(data, np.uint8).reshape(lengths, order=known)
    raise DataError(f"the pickle contains an array of shape {shape!r}, order {order!r}")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind != _Call(_ndarray) or shape != (0,) or code not in (b"b", "b"):
        raise DataError("the pickle creates an array in a way that NumPy never does")
    return _Array()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise DataError("the pickle contains an array that is not plain uint8")
    made = _Array()
    made.array = _shaped(data, shape, order)
    return made


def _dtype(code: object, *_: object) -> _Dtype:
    if code not in (b"u1", "u1"):
        raise DataError(f"the pickle contains an array of dtype {code!r}, wanted uint8 ('u1')")
    return _Dtype()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in (b"latin1", "latin1"):
        raise DataError("the pickle encodes bytes in a way that Python never does")
    return text.encode("latin1")


def _ndarray(*_: object) -> object:
    raise DataError("the pickle calls numpy.ndarray, which a CIFAR-10 batch never does")


_REPLACEMENTS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
