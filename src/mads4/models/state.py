"""The recurrent state of a policy between two time steps.

A state is a nested structure of tuples, dictionaries, tensors and None. The first axis of every
tensor is the environment, ``B``. Its contents are private to the policy; all other code uses the
functions below. (``torch.utils._pytree`` is private API, and plain containers can be stored in a
checkpoint and loaded with ``weights_only=True``.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Any
"""Nested tuples and dictionaries of tensors (B, …) and None."""


def tree_map(function: Callable[..., Any], state: State, *others: State) -> State:
    """Return the structure of `state` with what `function` returns for its tensors.

    Args:
        function: takes a tensor of `state` and the corresponding one of each of `others`.
        state: a nested structure.
        *others: structures of the same form.

    Raises:
        TypeError: the structure contains something other than tuples, dictionaries, tensors, None.
        ValueError: the structures have different forms.
    """
    if isinstance(state, Tensor):
        return function(state, *others)
    if state is None:
        return None
    if type(state) is tuple:
        rows = zip(state, *others, strict=True)
        return tuple(tree_map(function, *row) for row in rows)
    if type(state) is dict:
        return {
            key: tree_map(function, value, *(other[key] for other in others))
            for key, value in state.items()
        }
    raise TypeError(
        f"A recurrent state holds a {type(state).__name__}; use tuples, dictionaries and tensors."
    )


def leaves(state: State) -> list[Tensor]:
    """Return the tensors of a state, in order."""
    found: list[Tensor] = []
    tree_map(found.append, state)
    return found


def unflatten(like: State, values: Sequence[Any]) -> State:
    """Return the structure of `like` with `values` in place of its tensors; undoes `leaves`."""
    following = iter(values)
    return tree_map(lambda _: next(following), like)


def select(state: State, rows: Tensor) -> State:
    """Return the state of the environments `rows` (B',) int64."""
    return tree_map(lambda values: values[rows], state)


def join(states: Sequence[State]) -> State:
    """Return the state of all environments of `states`, one after the other."""
    return tree_map(lambda *values: torch.cat(values), *states)


def where(rows: Tensor, chosen: State, other: State) -> State:
    """Return `chosen` for the environments where `rows` (B,) is True, else `other`."""

    def pick(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (new.ndim - 1)), new, old)

    return tree_map(pick, chosen, other)


def detach(state: State) -> State:
    """Return the state without gradients into the steps that led to it."""
    return tree_map(torch.Tensor.detach, state)
