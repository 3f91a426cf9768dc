"""Models by name: their settings, policies of the user's own, and what a checkpoint may import."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import SPEC, make_batch
from mads4.errors import UserError
from mads4.experiment import components
from mads4.kernels.backends import AUTO
from mads4.models import MODELS, CustomModelConfig

FACTORY = "fakes:small_mlp"
SIZES: dict[str, dict[str, Any]] = {
    "mads4": {"n_layers": 1, "d_model": 8, "d_state": 4},
    "mlp": {"d_model": 8},
    "transformer": {"n_layers": 1, "d_model": 8, "n_heads": 2},
    "custom": {"factory": FACTORY, "options": {"d_model": 6}},
}


def payload(name: str) -> dict[str, Any]:
    settings = MODELS.schema(name).model_validate({"name": name, **SIZES[name]})
    torch.manual_seed(0)
    policy = settings.build(SPEC, AUTO)
    return {
        "model": settings.model_dump(mode="json"),
        "spec": SPEC.to_dict(),
        "policy": policy.state_dict(),
    }


def test_every_model_has_a_name() -> None:
    assert sorted(SIZES) == MODELS.names()
    with pytest.raises(UserError, match=r"model: got 'mpl', expected one of .*Did you mean 'mlp'"):
        MODELS.schema("mpl")


@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_checkpoint_rebuilds_its_policy(name: str) -> None:
    saved = payload(name)
    policy = components.trained_policy(saved, "float64", FACTORY if name == "custom" else None)
    assert not policy.training
    logits = policy(make_batch())
    assert logits.dtype == torch.float64
    assert torch.equal(logits.isfinite(), make_batch().available_actions)


@pytest.mark.parametrize("given", [None, "os:system"])
def test_a_checkpoint_imports_no_code(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = payload("custom")
    monkeypatch.setattr("mads4.settings.load", lambda *_: pytest.fail("imported"))
    with pytest.raises(UserError, match=f"not imported. If you trust it, give .*={FACTORY}"):
        components.trained_policy(saved, factory=given)


def test_mistakes() -> None:
    nothing = CustomModelConfig(factory=FACTORY, options={"d_model": 0})
    with pytest.raises(UserError, match=r"'fakes:small_mlp' returned a NoneType, expected a mads4"):
        nothing.build(SPEC, AUTO)
    with pytest.raises(UserError, match=r"do not fit this version of mads4: .*"):
        components.model_settings({"model": {"name": "mlp", "width": 3}})
