"""What the agents' chain is worth to a trained policy: disturb it, and look how returns change.

All disturbances are played on the same episodes (the same starts and the same random numbers for
actions), so that their differences from the undisturbed policy are differences within episodes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mads4.algorithms.losses import behavior_cloning
from mads4.config import ProbeConfig
from mads4.data.dataset import Dataset
from mads4.data.sampler import held_out_batches
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import VectorEnv
from mads4.errors import UserError
from mads4.evaluation.evaluator import tell
from mads4.evaluation.metrics import Evaluation, mean_interval
from mads4.logging import progress_bar
from mads4.models import Mads4Policy, SequencePolicy, State
from mads4.rollout import one_thread, rollout
from mads4.rollout.vector import make_vector
from mads4.types import FloatArray, PolicyInput, PolicyOutput, SequenceBatch

GRADIENT_BATCH = 4
"""Episodes at once; only speed and memory depend on it."""

GRADIENT = (
    "row i, column j: how much the summed loss of agent i (nats) changes with agent j's embedded "
    "input of one time step; Euclidean norm over features, root mean square over the real steps "
    "of the probed episodes, whose actions the policy itself drew in the order of numbers"
)


@dataclass(frozen=True)
class Disturbance:
    """What is done to the chain."""

    label: str
    order: str
    """Who decides first: ``fixed`` (by number), ``reverse``, or ``random`` for each episode."""
    drop: tuple[float, ...]
    """(N,) probability that the message to an agent is dropped, drawn at every step."""


class OrderedPolicy:
    """A policy whose agents decide in an order that is given from outside.

    Args:
        policy: stays as it is; weights are shared.
        order: ``fixed``, ``reverse``, or ``random``, as `rollout` draws it for each episode.
    """

    def __init__(self, policy: Mads4Policy, order: str) -> None:
        self._policy = copy.copy(policy)
        self._policy.agent_order = "fixed" if order == "fixed" else "random"
        self._reverse = order == "reverse"

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` environments before their first step."""
        return self._policy.initial_state(batch)

    def step(self, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
        """Decide for one time step."""
        if self._reverse:
            batch, n_agents = inputs.observation.shape[:2]
            key = torch.arange(n_agents, 0, -1, device=inputs.observation.device)
            inputs = replace(inputs, order_key=key.expand(batch, -1))
        return self._policy.step(inputs, state)

    def reset_rows(self, state: State, rows: Tensor) -> State:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        return self._policy.reset_rows(state, rows)


def require_chain(policy: SequencePolicy, source: str) -> Mads4Policy:
    """Return the policy of `source` if its agents hand something on.

    Raises:
        UserError: there is nothing that could be lost, cut or reordered.
    """
    if not isinstance(policy, Mads4Policy):
        raise UserError(
            f"The policy of {source} is a {type(policy).__name__}: its agents decide alone. Give "
            "one that was trained with model=mads4."
        )
    if policy.spec.n_agents == 1:
        raise UserError(
            f"The policy of {source} plays with a single agent: there is no chain to probe. "
            "Give one that was trained with at least two agents."
        )
    if not policy.channel.is_open:
        raise UserError(
            f"The agents of {source} hand nothing on (model.message=none, "
            "model.autoregressive=false): no loss, cut or order would change what they do. Give a "
            "policy that was trained with model.message=output, state or logits, or "
            "model.autoregressive=true."
        )
    return policy


def disturbances(
    n_agents: int, own_order: str, losses: Sequence[float]
) -> dict[str, list[Disturbance]]:
    """Return what is tried, by section; each section's first entry is the policy undisturbed.

    Args:
        n_agents: N.
        own_order: the order that the policy was trained for. In a fixed one agent 0 receives
            nothing, so that there is nothing to cut before it.
        losses: probabilities of dropping a message, ``message_loss``; 0 is always among them.
    """
    intact = (0.0,) * n_agents
    first = 1 if own_order == "fixed" else 0
    cuts = [(0.0,) * k + (1.0,) + (0.0,) * (n_agents - k - 1) for k in range(first, n_agents)]
    orders = [own_order, *(name for name in ("fixed", "reverse", "random") if name != own_order)]
    return {
        "message_loss": [
            Disturbance(f"{100 * p:g}% dropped", own_order, (p,) * n_agents)
            for p in sorted({0.0, *losses})
        ],
        "cut": [
            Disturbance("whole chain", own_order, intact),
            *(Disturbance(f"cut before agent {d.index(1.0)}", own_order, d) for d in cuts),
        ],
        "order": [Disturbance(f"{name} order", name, intact) for name in orders],
    }


class Probe:
    """Plays a policy under disturbances.

    Args:
        make_env: makes the environments.
        settings: episodes, seed …
        device: where the policy computes.
    """

    def __init__(self, make_env: EnvFactory, settings: ProbeConfig, device: torch.device) -> None:
        self._make_env = make_env
        self._settings = settings
        self._device = device

    def run(self, policy: Mads4Policy, target: float) -> dict[str, Any]:
        """Return ``message_loss``, ``cut``, ``order`` and ``gradient`` of ``probe.json``.

        Args:
            policy: one with a chain (`require_chain`), on the device.
            target: return to ask for.
        """
        settings = self._settings
        tried = disturbances(policy.spec.n_agents, policy.agent_order, settings.message_dropout)
        with ExitStack() as stack:
            stack.enter_context(one_thread())
            size = min(settings.num_envs, settings.episodes)
            envs = stack.enter_context(closing(self._environments(size)))
            played: dict[tuple[str, tuple[float, ...]], Evaluation] = {}
            for one in (one for section in tried.values() for one in section):
                key = (one.order, one.drop)
                if key not in played:
                    played[key] = self._play(policy, envs, target, one)
            data = self._recorded(policy, envs, target)
        intact = played[policy.agent_order, (0.0,) * policy.spec.n_agents]
        sections: dict[str, Any] = {
            name: [_figures(one, played[one.order, one.drop], intact) for one in section]
            for name, section in tried.items()
        }
        norm = chain_gradients(policy, data, self._device)
        return sections | {
            "gradient": {"norm": norm.tolist(), "episodes": len(data), "definition": GRADIENT}
        }

    def _environments(self, size: int) -> VectorEnv:
        settings = self._settings
        return make_vector(
            self._make_env, size, workers=settings.num_workers, timeout=settings.worker_timeout
        )

    def _play(
        self, policy: Mads4Policy, envs: VectorEnv, target: float, one: Disturbance
    ) -> Evaluation:
        settings = self._settings
        with progress_bar(one.label, settings.episodes, settings.progress) as advance:
            episodes = rollout(
                OrderedPolicy(policy, one.order),
                envs,
                settings.episodes,
                seed=settings.seed,
                target_return=target,
                deterministic=settings.deterministic,
                device=self._device,
                message_dropout=one.drop,
            )
            return Evaluation.of(episodes, target, tell(advance))

    def _recorded(self, policy: Mads4Policy, envs: VectorEnv, target: float) -> Dataset:
        """Return the first episodes as the policy plays them in the order of agents' numbers."""
        settings = self._settings
        episodes = rollout(
            OrderedPolicy(policy, "fixed"),
            envs,
            settings.gradient_episodes,
            seed=settings.seed,
            target_return=target,
            deterministic=settings.deterministic,
            device=self._device,
            record=True,
        )
        played = sorted(episodes, key=lambda one: one.index)
        recorded = [one.episode for one in played if one.episode is not None]
        return Dataset.from_episodes(policy.spec, recorded, name="probe")


def _figures(one: Disturbance, played: Evaluation, intact: Evaluation) -> dict[str, Any]:
    """Return the entry of ``probe.json``; changes are of the same episodes."""
    change = played.returns - intact.returns
    speed = {"environment_steps_per_second"}  # all else is reproducible
    figures = played.summary().model_dump(exclude_unset=True, exclude=speed)
    return {
        "label": one.label,
        "order": one.order,
        "drop": list(one.drop),
        **figures,
        "change_mean": float(change.mean()),
        "change_ci95": list(mean_interval(change)),
    }


def chain_gradients(policy: Mads4Policy, data: Dataset, device: torch.device) -> FloatArray:
    """Return the norms (N, N) of the gradients that reach each agent's input, see `GRADIENT`.

    They flow through messages only: actions that are passed on are data. So entries above the
    diagonal are zero, and without a message, or with a detached one, all but the diagonal are.

    Args:
        policy: in evaluation mode.
        data: episodes to compute the losses of, in the convolutional view.
        device: where the policy is.
    """
    square = np.zeros((policy.spec.n_agents, policy.spec.n_agents))
    steps = 0
    for batch in held_out_batches(data, GRADIENT_BATCH):
        square += _squared_gradients(policy, batch.to(device))
        steps += int(batch.mask.sum())
    norms: FloatArray = np.sqrt(square / steps)
    return norms


def _squared_gradients(policy: Mads4Policy, batch: SequenceBatch) -> FloatArray:
    """Return sums (N, N) over a batch's steps of the gradients' squared norms."""
    embedded: list[Tensor] = []

    def as_leaf(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())  # each agent's own
        return embedded[-1]

    hook = policy.embedding.register_forward_hook(as_leaf)
    try:
        logits = policy(batch)
    finally:
        hook.remove()
    rows = []
    for agent in range(policy.spec.n_agents):
        one = slice(agent, agent + 1)
        loss, _ = behavior_cloning(
            logits[:, :, one], batch.action[:, :, one], batch.available_actions[:, :, one],
            batch.mask,
        )  # fmt: skip
        total = loss * batch.mask.sum()
        (gradient,) = torch.autograd.grad(total, embedded, retain_graph=True)
        rows.append(gradient.double().square().sum(dim=(0, 1, 3)))
    return torch.stack(rows).cpu().numpy()
