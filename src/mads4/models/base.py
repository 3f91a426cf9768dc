"""The interface of trainable policies, and what they share.

A new policy is one module here, or anywhere with ``model=custom``, and one YAML file. It derives
from `mads4.models.independent.IndependentPolicy` if its agents act independently of each other (it
then defines an encoder), else from `SequencePolicy`. Its settings are in the same module: a
`ModelSettings` schema, registered in `MODELS` by name.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mads4.errors import UserError
from mads4.models.communication import MessageChannel
from mads4.models.embedding import InputEmbedding
from mads4.models.state import State, where
from mads4.nn.cache import shared_in_graph
from mads4.settings import Factory, Registry, Settings, call_factory
from mads4.types import EnvSpec, PolicyInput, PolicyOutput, SequenceBatch


@dataclass(frozen=True)
class PolicySequence:
    """A policy's output over whole sequences, by agent."""

    logits: Tensor
    """(B, T, N, n_actions), -inf where unavailable."""
    latent: Tensor
    """(B, T, N, latent_dim), the normalized network output, which the logits depend on."""
    state: State | None
    """After the last step, padding included; None unless requested."""


class SequencePolicy(nn.Module, ABC):
    """A policy over sequences and over time steps; both views compute the same function.

    A policy sets the attributes below and defines `sequence`, `initial_state` and `step`. Axes:
    ``B`` batch, ``T`` time, ``N`` agents.
    """

    spec: EnvSpec
    embedding: InputEmbedding
    """Holds the normalization statistics of the training data."""
    latent_dim: int
    """H, features of `PolicySequence.latent`."""
    agent_order: str = "fixed"
    """``fixed``, or ``random``: drawn for each episode."""
    message_delay: int = 0
    """Steps until a message is read, 0 or 1."""
    channel: MessageChannel | None
    """The messages between agents; None if they act independently."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = None

    @abstractmethod
    def sequence(
        self,
        batch: SequenceBatch,
        *,
        order: Tensor | None = None,
        dropped: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> PolicySequence:
        """Return logits and latents of sequences; padding at the end changes nothing before it.

        Nothing is sampled: without `order` and `dropped`, agents act by number and every message
        arrives.

        Args:
            batch: trajectories, or segments of them.
            order: (B, N) int64, the agents in the order in which they act.
            dropped: (B, T, N) bool, True where an agent's incoming message is dropped.
            state: after the preceding steps, for example of `step`; None at the start.
            return_state: also return the state after the last step.
        """

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` environments before their first step."""

    @abstractmethod
    def step(self, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
        """Select the actions of one time step of B environments; equals `sequence` step by step.

        The state is an argument and a return value; it is not changed in place.
        """

    def forward(
        self, batch: SequenceBatch, *, order: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """Return action logits (B, T, N, n_actions), -inf where unavailable, of whole sequences.

        In training, order and dropped messages are sampled unless given; arguments as for
        `sequence`.
        """
        if self.training:
            order, dropped = self.draw(batch.action, order, dropped)
        return self.sequence(batch, order=order, dropped=dropped).logits

    def draw(
        self, action: Tensor, order: Tensor | None = None, dropped: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return `order` and `dropped` of a training step, sampled from PyTorch's random stream.

        Args:
            action: (B, T, N), of the batch.
            order: as for `sequence`; not sampled if given.
            dropped: likewise.
        """
        return order, dropped

    def reset_rows(self, state: State, rows: Tensor) -> State:
        """Return `state`, reset to the initial state where `rows` (B,) is True."""
        return where(rows, self.initial_state(len(rows)), state)

    @property
    def optional_inputs(self) -> frozenset[str]:
        """Which of ``global_state``, ``previous_action`` and ``return_to_go`` the policy reads."""
        encoders = {
            "global_state": self.embedding.state,
            "previous_action": self.embedding.previous_action,
            "return_to_go": self.embedding.return_to_go,
        }
        return frozenset(name for name, encoder in encoders.items() if encoder is not None)

    def agent_memory(self, state: State, number: int) -> State:
        """Return the recurrent state of one agent, leaves (B, …), without its previous action.

        Raises:
            NotImplementedError: the policy does not define the step of a single agent.
        """
        raise NotImplementedError

    def agent_step(
        self, inputs: Mapping[str, Tensor], agent: Tensor, memory: State
    ) -> tuple[Tensor, Tensor | None, State]:
        """Take the step of one agent in B environments, for export.

        Args:
            inputs: ``observation`` (B, obs_dim), ``available_actions`` (B, n_actions), those of
                `optional_inputs` and, if there is a `channel`, ``message`` (B, M) and
                ``predecessor_action`` (B,). Other names may be missing.
            agent: (B,) or () int64, the agent's number.
            memory: as `agent_memory` returns it.

        Returns:
            Logits (B, n_actions), -inf where unavailable; the message (B, M) to send, or None;
            the new memory.
        """
        raise NotImplementedError

    def exportable(self) -> SequencePolicy:
        """Return a float32 copy on the CPU whose `agent_step` can be traced."""
        return copy.deepcopy(self).to("cpu", torch.float32).eval().requires_grad_(False)


def mask_unavailable(logits: Tensor, available_actions: Tensor) -> Tensor:
    """Return logits (..., n_actions) with -inf where an action is unavailable."""
    return logits.masked_fill(~available_actions, -torch.inf)


def choose_actions(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """Return actions (...) from (..., n_actions).

    Args:
        logits: -inf where unavailable.
        uniform: (...) float64 in [0, 1): actions are sampled by inverting the distribution
            function, so that a number determines the action; None for the argmax.
    """
    if uniform is None:
        return logits.argmax(dim=-1)
    cumulative = logits.to(torch.float64).softmax(dim=-1).cumsum(dim=-1)
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
    return (cumulative <= threshold).sum(dim=-1)


def no_action(batch: int, spec: EnvSpec, device: torch.device) -> Tensor:
    """Return the previous actions (B, N) before the first step: -1."""
    return torch.full((batch, spec.n_agents), -1, device=device)


def unroll(
    policy: SequencePolicy,
    batch: SequenceBatch,
    order: Tensor | None = None,
    state: State | None = None,
) -> Tensor:
    """Return the logits of `SequencePolicy.sequence`, (B, T, N, n_actions), step by step.

    The same function and the same gradients by T steps: training without S4's convolution
    (``unroll_mode=recurrent``), and the check that both views agree.

    Args:
        policy: any.
        batch: trajectories, or segments of them, with the executed actions.
        order: (B, N) int64, the agents in the order in which they act; None for that of numbers.
        state: after the preceding steps; None at the start.
    """
    key = None if order is None else order.argsort(dim=1).to(torch.float64)
    now = policy.initial_state(len(batch.action)) if state is None else state
    logits = []
    with shared_in_graph(policy):
        for t in range(batch.action.shape[1]):
            inputs = PolicyInput(
                observation=batch.observation[:, t],
                state=batch.state[:, t],
                available_actions=batch.available_actions[:, t],
                return_to_go=batch.return_to_go[:, t],
                uniform=None,
                order_key=key,
                action=batch.action[:, t],
            )
            output, now = policy.step(inputs, now)
            logits.append(output.logits)
    return torch.stack(logits, dim=1)


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class ModelSettings(Settings):
    """Base of the schemas of the group `model`."""

    name: str
    """Policy architecture."""

    def build(self, spec: EnvSpec, kernel_backend: str) -> SequencePolicy:
        """Return a freshly initialized policy.

        Args:
            spec: the environment's sizes.
            kernel_backend: of the S4 kernels; ignored by policies without.

        Raises:
            UserError: the options do not fit together.
        """
        raise NotImplementedError

    def problems(self, where: str) -> list[str]:
        """Return one line for each impossible combination of values.

        Args:
            where: the group's key on the command line, for example ``model``.
        """
        return []


class NetworkSettings(ModelSettings):
    """Base of the schemas of policies with an `InputEmbedding`: which inputs they read."""

    return_conditioning: bool = True
    """Condition on the return-to-go."""
    use_global_state: bool = True
    """Feed the global state."""
    use_previous_action: bool = True
    """Feed the agent's own previous action."""
    normalization: Literal["shared", "per_agent"] = "shared"
    """Statistics that scale observations and states: one for all agents, or each its own."""

    def embedding(self, spec: EnvSpec, d_model: int, **changes: bool) -> InputEmbedding:
        """Return the embedding of these inputs, `changes` excepted."""
        inputs = self.model_dump(include=set(NetworkSettings.model_fields) - {"name"})
        return InputEmbedding(spec, d_model, **(inputs | changes))


MODELS: Registry[ModelSettings] = Registry("model", "mads4.models")


@MODELS.register("custom")
class CustomModelConfig(ModelSettings):
    """A policy of your own."""

    name: Literal["custom"] = "custom"
    """Policy architecture."""
    factory: Factory
    """Function `package.module:function` called as `function(spec, **options)`; returns a
    `mads4.models.SequencePolicy`."""
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of the factory."""
    factory_arguments: ClassVar[int] = 1
    """Number of positional arguments that the factory is given."""

    def build(self, spec: EnvSpec, kernel_backend: str) -> SequencePolicy:
        """Return what the factory makes."""
        made = call_factory("model", self.factory, spec, **self.options)
        if not isinstance(made, SequencePolicy):
            raise UserError(
                f"model.factory: '{self.factory}' returned a {type(made).__name__}, expected a "
                "mads4.models.SequencePolicy."
            )
        return made
