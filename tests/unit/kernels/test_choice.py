"""Selection of a backend, and the errors when none can run."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mads4.errors import UserError
from mads4.kernels.backends import (
    BackendError,
    CustomKernelConfig,
    choice,
    choose,
    reason_against,
)
from mads4.kernels.backends.torch_backend import BACKEND as TORCH


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from, or for, other tests."""
    monkeypatch.setattr(choice, "_REASONS", {})
    monkeypatch.setattr(choice, "_CHOICES", {})


def cannot(reasons: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the named backends fail with these reasons, the others run."""
    for name in choice.NAMES:
        for device_type in ("cpu", "cuda"):
            choice._REASONS[name, device_type] = reasons.get(name)


def test_auto_on_a_cpu_is_torch_and_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, choice.__name__):
        first, second = choose("auto", "cpu"), choose("auto", "cpu")
    assert first is second
    assert first.backend is TORCH
    assert "torch > keops" in first.reason
    assert [record.message for record in caplog.records] == [
        f"kernel backend: torch ({first.reason})"
    ]


def test_auto_takes_the_next_and_names_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cannot({"cuda": "triton is not installed."}, monkeypatch)
    taken = choose("auto", "cuda")
    assert taken.backend is TORCH
    assert "cuda cannot run: triton is not installed." in taken.reason


def test_a_backend_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    cannot({"keops": "pykeops is not installed."}, monkeypatch)
    with pytest.raises(BackendError, match=r"'keops' cannot run on cpu: pykeops is not installed"):
        choose("keops", "cpu")


def test_every_module_is_a_backend_with_an_option() -> None:
    """A new backend is one module and one YAML file."""
    options = {entry.stem for entry in (Path(__file__).parents[3] / "conf" / "kernel").iterdir()}
    assert options == {"auto", "custom", *choice.NAMES}
    assert choice.NAMES == ("cuda", "keops", "torch")
    for name in choice.NAMES:
        module = importlib.import_module(f"mads4.kernels.backends.{name}_backend")
        assert module.BACKEND.name == name


@pytest.mark.parametrize(
    ("device_type", "order"),
    [("cpu", ("torch", "keops")), ("cuda", ("cuda", "torch", "keops")), ("xpu", ("torch",))],
)
def test_backends_declare_their_place_in_the_order(device_type: str, order: tuple[str]) -> None:
    assert choice.automatic_order(device_type) == order


def test_torch_runs_anywhere() -> None:
    for device_type in ("cpu", "cuda", "xpu"):
        assert reason_against("torch", device_type) is None
    assert choose("auto", "xpu").backend is TORCH


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(
        BackendError, match=r"auto, cuda, keops, torch, custom.*Did you mean 'keops'"
    ):
        choose("keop")


def test_a_run_that_cannot_have_its_backend_stops_before_any_work(
    monkeypatch: pytest.MonkeyPatch, cli: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cannot({"keops": "no C++ compiler."}, monkeypatch)
    assert cli("train", "experiment=smoke", "kernel=keops") == 2
    assert "'keops' cannot run on cpu: no C++ compiler." in capsys.readouterr().err


class Wrong:
    """A backend whose products are all zero."""

    name = "wrong"

    def powers(self, base: torch.Tensor, length: int, sequences: int = 1) -> Any:
        return self

    def product(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 1, 3)


def torch_products() -> Any:
    """A user's own factory."""
    return TORCH


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name by which this module is imported."""
    monkeypatch.setitem(sys.modules, "own_kernels", sys.modules[__name__])
    return "own_kernels"


def test_a_backend_of_the_users_own_is_chosen_by_its_factory(importable: str) -> None:
    with pytest.raises(BackendError, match=r"needs kernel\.factory"):
        choose("custom")
    taken = CustomKernelConfig(factory=f"{importable}:torch_products").choose("cpu")
    assert (taken.backend, taken.reason) == (TORCH, "made by own_kernels:torch_products")
    assert choose("custom", "cpu") is taken


@pytest.mark.parametrize(
    ("function", "options", "why"),
    [
        ("Wrong", {}, "computes wrong values on cpu"),
        ("Path", {}, "returns a PosixPath, expected a mads4.kernels.backends.Backend"),
        ("torch_products", {"size": 3}, "refuses {size: 3}"),
        ("nothing", {}, "has no function 'nothing'"),
    ],
)
def test_what_is_no_backend_is_refused(
    function: str, options: dict[str, int], why: str, importable: str
) -> None:
    with pytest.raises(UserError, match=why):
        CustomKernelConfig(factory=f"{importable}:{function}", options=options).choose("cpu")
