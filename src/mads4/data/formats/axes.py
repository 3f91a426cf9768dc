"""Arrays of one recording must have the same lengths where they share an axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mads4.errors import UserError

Layout = Mapping[str, tuple[str, tuple[str, ...]]]
"""Array → kinds of NumPy dtype, names of its axes; axes of one name have one length."""

_KINDS = {"i": "integers", "u": "unsigned integers", "f": "floats", "b": "flags"}


def axis_lengths(
    arrays: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    layout: Layout,
    label: Callable[[str], str],
) -> dict[str, int]:
    """Return the length of every axis, after finding it the same in all arrays.

    Args:
        arrays: dtype and shape of each array of `layout`.
        layout: what is expected; the axis ``1`` has length 1.
        label: what an array is called in messages (a path, mostly).

    Raises:
        UserError: an array of another kind or shape, or an axis of length 0.
    """
    size: dict[str, int] = {"1": 1}
    source: dict[str, str] = {}
    for key, (kinds, axes) in layout.items():
        dtype, shape = arrays[key]
        expected = f"({', '.join(axes)})"
        if dtype.kind not in kinds:
            allowed = " or ".join(_KINDS[kind] for kind in kinds)
            raise UserError(f"{label(key)} holds {dtype}, expected {allowed}.")
        if len(shape) != len(axes):
            raise UserError(f"{label(key)} has shape {shape}, expected {expected}.")
        for axis, length in zip(axes, shape, strict=True):
            if length != size.setdefault(axis, length):
                told = f" as in {source[axis]}" if axis in source else ""
                raise UserError(
                    f"{label(key)} has shape {shape}, expected {expected} with "
                    f"{axis} = {size[axis]}{told}."
                )
            source.setdefault(axis, label(key))
        if 0 in shape:
            empty = axes[shape.index(0)]
            raise UserError(f"{label(key)} is empty: its axis {empty} has length 0.")
    return size
