"""The recurrent view alone, its coefficients fixed: for programs that leave Python."""

from __future__ import annotations

import copy
from dataclasses import fields

import torch

from mads4.nn.blocks import S4Stack
from mads4.nn.recurrence import Recurrent, StepCoefficients
from mads4.nn.s4 import S4Layer


class FrozenS4(Recurrent):
    """An S4 layer that can only be stepped.

    `S4Layer` discretizes its parameters in complex double precision whenever they change; here
    the outcome is kept in buffers, so that what is traced from `step` is real single-precision
    arithmetic on constants.

    Args:
        layer: whose coefficients, as they are now, are copied.
    """

    def __init__(self, layer: S4Layer) -> None:
        super().__init__()
        with torch.no_grad():
            coefficients = layer.coefficients()
        self._names = [f.name for f in fields(StepCoefficients)]
        for name in self._names:
            value = getattr(coefficients, name)
            self.register_buffer(name, None if value is None else value.clone().contiguous())

    def coefficients(self) -> StepCoefficients:
        """Return the buffers."""
        return StepCoefficients(**{name: getattr(self, name) for name in self._names})


def freeze(stack: S4Stack) -> S4Stack:
    """Return a copy of `stack` that can only be stepped and read."""
    frozen = copy.deepcopy(stack)
    for block in frozen.blocks:
        layer = block.s4
        assert isinstance(layer, S4Layer)
        block.add_module("s4", FrozenS4(layer))
    return frozen
