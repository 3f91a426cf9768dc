"""Workloads of whole policies: a training step and a decision, for any number of agents.

A training step is forward pass, loss and backward pass over B whole trajectories (the optimizer,
the same for all, is left out); a decision is one step of the policy for all agents of B
environments, sampling included. Inputs are random numbers of the sizes of a small warehouse.
Dropout is off: a transformer draws it for every token, S4 blocks for whole sequences only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.cases import Workload
from harness.measure import Action
from mads4.models import Mads4Policy, TransformerPolicy
from mads4.models.base import parameter_count
from mads4.models.communication import MESSAGES
from mads4.models.state import leaves
from mads4.types import EnvSpec, PolicyInput, SequenceBatch

TRAINING, DECISION = "training", "decision"

N_LAYERS = 3
HEADS = 4
OBSERVATION, STATE, ACTIONS = 71, 14, 5
"""Features of an observation and of the global state, and actions, as in RWARE with two agents, for
any number of agents."""

TRANSFORMER, WIDE_TRANSFORMER = "transformer", "transformer-wide"
TRANSFORMERS = (TRANSFORMER, WIDE_TRANSFORMER)
"""Of as many parameters as the default policy (at two thirds of its width), and of the same width
(with almost twice as many)."""

_WIDE_FEED_FORWARD = 2
"""Hidden units per channel of the wide transformer."""


def _messages_of() -> dict[str, dict[str, Any]]:
    """Return the policy's options by name: ``<message>[-previous][+action]``."""
    named: dict[str, dict[str, Any]] = {}
    for message in MESSAGES:
        for autoregressive in (False, True):
            for delay in (0, 1):
                if message == "none" and delay and not autoregressive:
                    continue  # without a message its delay does not matter
                early = "-previous" if delay else ""
                name = f"{message}{early}{'+action' if autoregressive else ''}"
                options = {
                    "message": message,
                    "message_delay": delay,
                    "autoregressive": autoregressive,
                }
                named[name] = options
    return named


MESSAGES_OF = _messages_of()
POLICIES = (*MESSAGES_OF, *TRANSFORMERS)
USUAL = (
    *("none", "none+action", "output", "output+action", "output-previous", "state", "logits"),
    TRANSFORMER,
)
"""One of each kind, measured by default."""


@dataclass(frozen=True)
class AgentCell:
    """One row of the table: a policy, its task and the sizes."""

    case: str
    """`TRAINING` or `DECISION`."""
    policy: str
    """One of `POLICIES`."""
    agents: int
    """n."""
    steps: int
    """T, the trajectories' length; for a decision the time steps before it."""
    batch: int
    """B, trajectories or environments at once."""
    channels: int
    """H."""
    state: int
    """N, real states per channel."""
    parameterization: str
    device: str

    @property
    def agent_steps(self) -> int:
        """Decisions trained on or made in one run."""
        return self.batch * self.agents * (self.steps if self.case == TRAINING else 1)

    @property
    def work(self) -> float:
        """A run's work up to a factor: linear in agent-steps, times length for attention."""
        return self.agent_steps * (max(1.0, self.steps) if self.policy in TRANSFORMERS else 1.0)

    def shrunken(self) -> AgentCell:
        """Return the same computation at sizes that cost next to nothing."""
        return replace(self, agents=2, steps=min(self.steps, 4), batch=1, channels=8, state=4)


def spec_of(cell: AgentCell) -> EnvSpec:
    """Return the sizes of an imaginary environment for the cell."""
    limit = max(1, cell.steps)
    return EnvSpec("random", "", cell.agents, OBSERVATION, STATE, ACTIONS, limit, "none")


def policy_of(cell: AgentCell) -> Mads4Policy | TransformerPolicy:
    """Make the cell's policy with the same random parameters at every call."""
    torch.manual_seed(0)
    spec = spec_of(cell)
    sizes: dict[str, Any] = {
        "d_model": cell.channels,
        "d_state": cell.state,
        "n_layers": N_LAYERS,
        "dropout": 0.0,
        "parameterization": cell.parameterization,
        "discretization": "zoh" if cell.parameterization == "diagonal" else "bilinear",
    }
    attention: dict[str, Any] = {
        "n_layers": N_LAYERS,
        "n_heads": HEADS,
        "dropout": 0.0,
        "context_length": cell.steps + 1,  # all that a decision after so many steps can see
    }
    policy: Mads4Policy | TransformerPolicy
    if cell.policy == WIDE_TRANSFORMER:
        units = _WIDE_FEED_FORWARD * cell.channels
        policy = TransformerPolicy(spec, d_model=cell.channels, feed_forward=units, **attention)
    elif cell.policy == TRANSFORMER:
        target = parameter_count(Mads4Policy(spec, **sizes))
        width = max(1, 2 * cell.channels // 3 // HEADS) * HEADS
        policy = transformer_of_size(spec, target, d_model=width, **attention)
    else:
        policy = Mads4Policy(spec, **sizes, **MESSAGES_OF[cell.policy])
    return policy.to(cell.device)


def transformer_of_size(spec: EnvSpec, parameters: int, **options: Any) -> TransformerPolicy:
    """Return the transformer whose feed-forward width brings it closest to so many parameters.

    Args:
        spec: the environment's sizes.
        parameters: wanted.
        **options: fields of `TransformerConfig` other than `feed_forward`.
    """
    least, per_unit = (
        parameter_count(TransformerPolicy(spec, feed_forward=units, **options)) for units in (1, 2)
    )
    per_unit -= least
    units = max(1, 1 + round((parameters - least) / per_unit))
    return TransformerPolicy(spec, feed_forward=units, **options)


def agent_workload(cell: AgentCell) -> Workload:
    """Make policy and inputs of a cell, the same at every call."""
    policy = policy_of(cell)
    if cell.case == TRAINING:
        forward = _training(cell, policy.train())
        parameters = list(policy.parameters())
        return Workload(
            forward, lambda: torch.autograd.grad(forward(), parameters, allow_unused=True)
        )
    return Workload(_deciding(cell, policy.eval()), None, torch.inference_mode)


def _training(cell: AgentCell, policy: Mads4Policy | TransformerPolicy) -> Callable[[], Tensor]:
    """Return what computes the mean cross-entropy to random actions."""
    batch = _sequences(cell)
    target = batch.action.flatten()

    def loss() -> Tensor:
        return functional.cross_entropy(policy(batch).flatten(0, -2), target)

    return loss


def _sequences(cell: AgentCell) -> SequenceBatch:
    shape = (cell.batch, cell.steps, cell.agents)
    action = torch.randint(ACTIONS, shape)
    previous = torch.cat([torch.full_like(action[:, :1], -1), action[:, :-1]], dim=1)
    return SequenceBatch(
        observation=torch.randn(*shape, OBSERVATION),
        state=torch.randn(cell.batch, cell.steps, 1, STATE),
        available_actions=torch.ones(*shape, ACTIONS, dtype=torch.bool),
        action=action,
        previous_action=previous,
        return_to_go=torch.rand(cell.batch, cell.steps),
        reward=torch.rand(cell.batch, cell.steps),
        terminated=torch.zeros(cell.batch, cell.steps, dtype=torch.bool),
        follows=torch.ones(cell.batch, cell.steps, dtype=torch.bool),
        mask=torch.ones(cell.batch, cell.steps, dtype=torch.bool),
    ).to(cell.device)


def _deciding(cell: AgentCell, policy: Mads4Policy | TransformerPolicy) -> Action:
    """Return an action that decides once, always at the same time step."""
    inputs, state = _one_step(cell), policy.initial_state(cell.batch)
    if isinstance(policy, TransformerPolicy):
        policy.in_place = True  # repeating a step writes the same values again
        state["memory"]["steps"].fill_(cell.steps)  # a step's cost does not depend on the contents
        return lambda: policy.step(inputs, state)
    with torch.inference_mode():
        for _ in range(cell.steps):
            _, state = policy.step(inputs, state)
    return lambda: policy.step(inputs, state)


def _one_step(cell: AgentCell) -> PolicyInput:
    rows = (cell.batch, cell.agents)
    return PolicyInput(
        observation=torch.randn(*rows, OBSERVATION, device=cell.device),
        state=torch.randn(cell.batch, 1, STATE, device=cell.device),
        available_actions=torch.ones(*rows, ACTIONS, dtype=torch.bool, device=cell.device),
        return_to_go=torch.rand(cell.batch, device=cell.device),
        uniform=torch.rand(*rows, dtype=torch.float64, device=cell.device),
    )


def remembered_bytes(cell: AgentCell) -> int:
    """Return the size in bytes of a policy's state of one environment after the cell's steps."""
    policy = policy_of(replace(cell, device="cpu"))
    if isinstance(policy, TransformerPolicy):
        cached = N_LAYERS * 2 * cell.agents * policy.tokens * cell.steps * policy.latent_dim
        return cached * policy.head.weight.element_size() + 8 * cell.agents
    return sum(tensor.nbytes for tensor in leaves(policy.initial_state(1)))


def prepared(cell: AgentCell) -> Action:
    """Make a training cell's inputs for measuring its memory; a small one warms up before."""
    small = agent_workload(cell.shrunken()).forward_backward
    action = agent_workload(cell).forward_backward
    if small is None or action is None:
        raise ValueError(f"{cell.case} has no backward pass.")
    small()
    return action
