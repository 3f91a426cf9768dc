"""Cached values of functions of parameters, valid until a parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")

_optimizer_steps = [0]


def _count_step(*_: Any) -> None:
    """Fused optimizers write to parameters without counting it in `_version`."""
    _optimizer_steps[0] += 1


register_optimizer_step_post_hook(_count_step)


class ParameterCache(Generic[T]):
    """Caches the value of a function of some parameters.

    It is invalidated by a change of a parameter's version counter or storage, of the first one's
    dtype, and by any optimizer's step. With gradients enabled nothing is cached, because the value
    has to belong to the caller's graph; neither for inference tensors, which have no version
    counter. Writing through ``parameter.data`` in place goes unnoticed: call `clear` then.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._value: T | None = None
        self._graph: list[T] | None = None

    def __reduce__(self) -> tuple[type[ParameterCache[T]], tuple[()]]:
        """Copy and pickle as an empty cache."""
        return type(self), ()

    def clear(self) -> None:
        """Discard the value."""
        self._key = self._value = None

    def get(self, parameters: Iterable[nn.Parameter], make: Callable[[], T]) -> T:
        """Return ``make()``, or its last value if no parameter has changed since."""
        if torch.is_grad_enabled():
            if self._graph is None:
                return make()
            self._graph = self._graph or [make()]
            return self._graph[0]
        values = list(parameters)
        if any(value.is_inference() for value in values):
            return make()
        key = (
            _optimizer_steps[0],
            values[0].dtype,
            *[value._version for value in values],
            *[value.data_ptr() for value in values],
        )
        if self._value is None or self._key != key:
            self._key, self._value = key, make()
        return self._value

    def share_in_graph(self, share: bool) -> None:
        """Start, or stop, returning the same value at every call with gradients enabled."""
        self._graph = [] if share else None


@contextmanager
def shared_in_graph(module: nn.Module) -> Iterator[None]:
    """Let the caches in `module` use one value for an autograd graph of many time steps.

    The parameters must not change inside. Without this, every step of an unrolled recurrence would
    compute the value, and backpropagate through that computation, again.
    """
    caches = [
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, ParameterCache)
    ]
    for cache in caches:
        cache.share_in_graph(True)
    try:
        yield
    finally:
        for cache in caches:
            cache.share_in_graph(False)
