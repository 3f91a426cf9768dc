"""Recurrent states: any nesting of tuples, dictionaries and tensors, stored as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mads4.models.state import detach, join, leaves, select, tree_map, unflatten, where


def make(offset: float = 0.0) -> Any:
    numbers = torch.arange(6.0).view(3, 2) + offset
    return {"a": (numbers, None, {"b": numbers[:, 0].long()}), "c": None, "d": ()}


def same(one: Any, other: Any) -> bool:
    return all(map(torch.equal, leaves(one), leaves(other)))


def test_structures_are_kept() -> None:
    state = make()
    doubled = tree_map(lambda values: values * 2, state)
    assert doubled["a"][1] is doubled["c"] is None
    assert doubled["d"] == ()
    assert same(doubled, {"a": (make()["a"][0] * 2, None, {"b": make()["a"][2]["b"] * 2})})
    assert same(unflatten(state, leaves(doubled)), doubled)


def test_environments_are_selected_joined_and_mixed() -> None:
    state, other = make(), make(10.0)
    rows = [select(state, torch.tensor([k])) for k in range(3)]
    assert same(join(rows), state)
    mixed = where(torch.tensor([True, False, True]), other, state)
    assert mixed["a"][0].tolist() == [[10, 11], [2, 3], [14, 15]]
    assert mixed["a"][2]["b"].tolist() == [10, 2, 14]


def test_no_gradient_flows_through_a_detached_state() -> None:
    given = torch.ones(2, 2, requires_grad=True)
    assert not any(values.requires_grad for values in leaves(detach({"a": (given * 2, None)})))


def test_a_state_is_stored_without_pickled_code(tmp_path: Path) -> None:
    torch.save({"state": make()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)["state"]
    assert same(loaded, make())
    assert type(loaded["a"]) is tuple


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="holds a list; use tuples, dictionaries and tensors"):
        leaves({"a": [torch.ones(1)]})
    with pytest.raises(ValueError, match="shorter"):
        join([(torch.ones(1), torch.ones(1)), (torch.ones(1),)])
