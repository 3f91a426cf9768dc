"""Checkpoints that a job starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mads4.config import EvaluateConfig, ProbeConfig
from mads4.data.observation_layouts import explain_sizes
from mads4.envs.protocol import env_spec
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.experiment import components
from mads4.training import checkpoint
from mads4.types import EnvSpec


def trained(config: EvaluateConfig | ProbeConfig) -> tuple[dict[str, Any], EnvFactory]:
    """Return a checkpoint that holds a policy, and the environment to play it in."""
    payload = policy_checkpoint(config.checkpoint)
    make_env = (
        EnvFactory.from_dict(payload["env"], config.env_factory)
        if config.env is None
        else components.environment(config.env)
    )
    spec = EnvSpec.from_dict(payload["spec"])
    played = env_spec(make_env)
    spec.require_compatible(
        played,
        f"the policy of {config.checkpoint}",
        "the environment",
        _builder_hint(spec, played),
    )
    return payload, make_env


def policy_checkpoint(source: str | Path) -> dict[str, Any]:
    """Return the payload of a checkpoint file, or of a run directory's best.

    Raises:
        UserError: there is none, or it holds no policy.
    """
    payload = checkpoint.load(checkpoint.find(Path(source).expanduser()))
    if "policy" not in payload or "spec" not in payload:
        raise UserError(f"{source} holds no policy; give a run directory of `mads4 train`.")
    return payload


def initialize(
    model: torch.nn.Module, payload: Mapping[str, Any], source: str | Path, spec: EnvSpec
) -> None:
    """Give `model` a checkpoint's weights and normalization, and nothing else of it.

    Args:
        model: a policy of the same options.
        payload: from `policy_checkpoint`.
        source: what to call it in messages.
        spec: what the policy is to be trained for.

    Raises:
        UserError: the checkpoint's environment, rewards or model options are others.
    """
    learned = EnvSpec.from_dict(payload["spec"])
    learned.require_compatible(
        spec,
        f"init_from={source}",
        "what it is to be trained for",
        _builder_hint(learned, spec),
    )
    try:
        model.load_state_dict(payload["policy"])
    except RuntimeError as error:
        raise UserError(
            f"init_from: the policy of {source} was built with other model settings "
            f"({payload['model']}); give the same model.* options. ({error})"
        ) from error


def _builder_hint(learned: EnvSpec, played: EnvSpec) -> str:
    """Return what to do where the same scenario is only seen in another way than was learned."""
    if (learned.name, learned.scenario) != (played.name, played.scenario):
        return ""
    hint = explain_sizes(learned, played, "the policy")
    if not hint and learned.name == "smac" and learned.state_encoding != played.state_encoding:
        hint = f"The policy needs env.observation={learned.state_encoding}."
    return hint


def known_returns(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``return_max``, ``return_mean`` and ``return_min`` that targets are relative to.

    Those of the data; after online training, the best and the latest of its episodes' as well.
    """
    returns: Mapping[str, Any] = payload.get("returns") or payload["data"]
    return returns
