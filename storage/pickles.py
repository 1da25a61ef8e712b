"""Read the python version's pickles without running a line of what they say.

A pickle is a program that may call anything it can name. The official batches name three
things, all of NumPy's: the function that makes an empty array, the class it is made of, and
`dtype`. Copies written by Python 3 add two: a way to spell bytes, and an array from a buffer.
Each stands here for a narrow replacement that can make a uint8 array or bytes and nothing
else; every other name is refused before it is looked up.
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
    """Return the dict that the file holds: of uint8 arrays, bytes, numbers, lists and dicts.

    Strings of Python 2 come back as bytes, as in the official batches.

    Raises:
        DataError: the file is damaged, holds no dict, or names anything but what a uint8 array
            needs.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        held = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    # Damaged bytes are a random program: the unpickler and NumPy raise nearly anything.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{path} is not a whole pickle ({reason}); unpack or download the data set again"
        ) from error
    if not isinstance(held, dict):
        raise DataError(f"{path}: the pickle holds a {type(held).__name__}, wanted a dict")
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
                "nothing was run. Do not trust this file"
            )
        # A fresh object each time: a pickle may set attributes on what it was given.
        return _Call(replacement)


@dataclass(frozen=True)
class _Call:
    """One of the replacements, as the pickle sees it."""

    function: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.function(*arguments)


class _Dtype:
    """NumPy's uint8, whatever else the pickle says."""

    def __setstate__(self, state: object) -> None:
        match state:
            case (3, "|" | b"|", None, None, None, -1, -1, 0):
                return
        raise DataError("the pickle's dtype has a state that no uint8 has")


class _Array:
    """An array on its way: empty until the pickle gives its shape and bytes."""

    def __init__(self) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, tuple(shape), _Dtype(), bool() | 0 | 1 as fortran, bytes(data)):
                self.array = _shaped(data, shape, "F" if fortran else "C")
            case _:
                raise DataError("the pickle holds an array that is not plain uint8")


def _shaped(data: bytes | bytearray, shape: object, order: object) -> Bytes:
    match shape, order:
        case tuple(lengths), "C" | "F" as known:
            if all(type(length) is int and length >= 0 for length in lengths):
                return np.frombuffer(data, np.uint8).reshape(lengths, order=known)
    raise DataError(f"the pickle holds an array of shape {shape!r}, order {order!r}")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind != _Call(_ndarray) or shape != (0,) or code not in (b"b", "b"):
        raise DataError("the pickle starts an array in a way that NumPy does not")
    return _Array()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise DataError("the pickle holds an array that is not plain uint8")
    made = _Array()
    made.array = _shaped(data, shape, order)
    return made


def _dtype(code: object, *_: object) -> _Dtype:
    if code not in (b"u1", "u1"):
        raise DataError(f"the pickle holds an array of dtype {code!r}, wanted uint8 ('u1')")
    return _Dtype()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in (b"latin1", "latin1"):
        raise DataError("the pickle spells bytes in a way that Python does not")
    return text.encode("latin1")


def _ndarray(*_: object) -> object:
    raise DataError("the pickle calls numpy.ndarray, which no CIFAR-10 batch does")


_REPLACEMENTS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
