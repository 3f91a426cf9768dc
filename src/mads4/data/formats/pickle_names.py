"""The names that a data file may use, each with a builder that checks its arguments.

None of them calls the named function of NumPy or torch: arrays are views of the file's bytes,
dtypes come from a list, and tensors are NumPy arrays, so that reading them needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.data.formats.pickle_machine import Machine, as_key
from mads4.data.formats.pickle_values import Call, Pending, RefusedError, Run

Array = npt.NDArray[Any]

DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
"""Bools, integers, floats and complex numbers; no objects."""
STORAGES: Mapping[str, str] = {
    "torch.BoolStorage": "b1",
    "torch.ByteStorage": "u1",
    "torch.CharStorage": "i1",
    "torch.ShortStorage": "i2",
    "torch.IntStorage": "i4",
    "torch.LongStorage": "i8",
    "torch.HalfStorage": "f2",
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.ComplexFloatStorage": "c8",
    "torch.ComplexDoubleStorage": "c16",
}
MOST_AXES = 32


@dataclass(frozen=True)
class StorageType:
    """A class of torch storages, named in persistent references."""

    dtype: str


def find(name: str) -> Any:
    """Return what an allowed dotted name builds.

    Raises:
        RefusedError: any other name, with that name.
    """
    if name in STORAGES:
        return StorageType(STORAGES[name])
    if name in _BUILDERS:
        return Call(name, _BUILDERS[name])
    raise RefusedError(
        f"it wants {name}, which is not among the names that data may use "
        "(NumPy arrays and numbers, torch tensors, Python's containers); nothing of it was run"
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _dtype(machine: Machine, arguments: tuple[Any, ...]) -> Pending:
    code = arguments[0]
    if type(code) is not str or code not in DTYPES:
        raise RefusedError(f"its type is {code!r:.40}, allowed are {', '.join(DTYPES)}")
    dtype = np.dtype(code)

    def with_order(machine: Machine, state: Any) -> np.dtype[Any]:
        plain = type(state) is tuple and len(state) in (8, 9) and state[2:5] == (None,) * 3
        if not plain or type(state[1]) is not str or state[1] not in "<>|=" or len(state[1]) != 1:
            raise RefusedError("numpy.dtype: a type with fields or metadata")
        return dtype.newbyteorder(">") if state[1] == ">" else dtype

    return Pending(with_order)


def _view(content: Any, dtype: Any, shape: Any, order: str) -> Array:
    """Return an array over a file's bytes, without copying them."""
    if not isinstance(dtype, np.dtype) or type(content) not in (bytes, bytearray):
        raise RefusedError("an array's type or content is something else")
    if type(shape) is not tuple or len(shape) > MOST_AXES or not all(map(_is_count, shape)):
        raise RefusedError("an array's shape is no tuple of whole numbers")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise RefusedError(
            f"an array of shape {shape} and type {dtype} is given {len(content)} bytes"
        )
    if 0 in shape:
        return np.empty(0, dtype).reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def _reconstruct(machine: Machine, arguments: tuple[Any, ...]) -> Pending:
    if type(arguments[0]) is not Call or arguments[0].name != "numpy.ndarray":
        raise RefusedError("it rebuilds something else than a numpy.ndarray")
    return Pending(_array)


def _array(machine: Machine, state: Any) -> Array:
    if type(state) is not tuple or len(state) != 5:
        raise RefusedError("numpy.ndarray: its state is not that of an array")
    _, shape, dtype, fortran, content = state
    machine.budget.reserve(128)
    return _view(content, dtype, shape, "F" if fortran is True else "C")


def _from_buffer(machine: Machine, arguments: tuple[Any, ...]) -> Array:
    content, dtype, shape, order = arguments
    if order not in ("C", "F"):
        raise RefusedError("an array's order is neither C nor F")
    return _view(content, dtype, shape, order)


def _scalar(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    dtype, content = arguments
    return _view(content, dtype, (), "C")[()]


def _encode(machine: Machine, arguments: tuple[Any, ...]) -> bytes:
    text, codec = arguments
    if type(text) is not str or codec != "latin1":
        raise RefusedError(f"it encodes in {codec!r:.40}, allowed is latin1")
    machine.budget.reserve(len(text))
    return text.encode("latin-1")


def _set(machine: Machine, arguments: tuple[Any, ...]) -> set[Any]:
    """Return a set of simple members."""
    (items,) = arguments
    if type(items) is not list:
        raise RefusedError("it is not made from a list")
    machine.budget.reserve(216 + 96 * sum(item.size if type(item) is Run else 1 for item in items))
    members: set[Any] = set()
    for item in items:
        members.update(item.tolist() if type(item) is Run else [as_key(item)])
    return members


def _frozenset(machine: Machine, arguments: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(_set(machine, arguments))


def _empty(kind: Callable[[], Any]) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def build(machine: Machine, arguments: tuple[Any, ...]) -> Any:
        if arguments:
            raise RefusedError("it is given arguments")
        return kind()

    return build


def _complex(machine: Machine, arguments: tuple[Any, ...]) -> complex:
    real, imaginary = arguments
    if type(real) is not float or type(imaginary) is not float:
        raise RefusedError("its parts are no floats")
    return complex(real, imaginary)


def _not_called(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    raise RefusedError("data has no reason to call it")


def _tensor(machine: Machine, arguments: tuple[Any, ...]) -> Array:
    """Return a view of a storage (S,), after checking that it stays inside."""
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or isinstance(storage, Run):
        raise RefusedError("its storage is something else")
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride):
        raise RefusedError("its shape and strides do not fit each other")
    if len(shape) > MOST_AXES or not all(map(_is_count, (offset, *shape, *stride))):
        raise RefusedError("its shape, strides or offset are no whole numbers")
    if 0 in shape:
        return np.empty(0, storage.dtype).reshape(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if last >= storage.size:
        raise RefusedError(f"it reaches to element {last} of a storage of {storage.size}")
    machine.budget.reserve(256)
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


_BUILDERS: Mapping[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "numpy.ndarray": _not_called,
    "numpy.dtype": _dtype,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _empty(dict),
    **{
        f"numpy.{core}.{name}": build
        for core in ("core", "_core")
        for name, build in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
    **{
        f"{builtins}.{name}": build
        for builtins in ("builtins", "__builtin__")
        for name, build in (
            ("set", _set),
            ("frozenset", _frozenset),
            ("bytes", _empty(bytes)),
            ("complex", _complex),
        )
    },
}
"""Dotted name, in the spelling of NumPy 1 or 2 and Python 2 or 3 → builder."""
