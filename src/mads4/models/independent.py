"""Policies whose agents act independently: a network over each agent's own inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from mads4.models.base import (
    PolicySequence,
    SequencePolicy,
    choose_actions,
    mask_unavailable,
    no_action,
)
from mads4.models.state import State, tree_map
from mads4.types import PolicyInput, PolicyOutput, SequenceBatch


class IndependentPolicy(SequencePolicy):
    """A policy whose agents share weights, act at the same time, and do not communicate.

    Subclasses define `encode`, and `initial_memory` if they are recurrent.
    """

    head: nn.Linear
    """From latents to logits."""

    @abstractmethod
    def encode(
        self,
        observation: Tensor,
        state: Tensor,
        previous_action: Tensor,
        return_to_go: Tensor,
        memory: State,
        *,
        agent: Tensor | None = None,
        return_memory: bool = True,
    ) -> tuple[Tensor, State]:
        """Return latents (B, T, N, H), and the memory after the last step if requested.

        Args:
            observation: (B, T, N, obs_dim).
            state: (B, T, N or 1, state_dim).
            previous_action: (B, T, N) int64, -1 where there was none.
            return_to_go: (B, T).
            memory: after the preceding steps; None at the start.
            agent: (B, T, N) or () int64, the agents' numbers; None for all agents in order.
            return_memory: False if the memory is not needed.
        """

    def initial_memory(self, batch: int) -> State:
        """Return zeros, leaves (B, N, …); None without memory."""
        return None

    def sequence(
        self,
        batch: SequenceBatch,
        *,
        order: Tensor | None = None,
        dropped: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> PolicySequence:
        """Return logits and latents of sequences; see `SequencePolicy.sequence`."""
        latent, memory = self.encode(
            batch.observation,
            batch.state,
            batch.previous_action,
            batch.return_to_go,
            None if state is None else state["memory"],
            return_memory=return_state,
        )
        logits = mask_unavailable(self.head(latent), batch.available_actions)
        after = {"previous_action": batch.action[:, -1], "memory": memory} if return_state else None
        return PolicySequence(logits, latent, after)

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` environments before their first step."""
        return {
            "previous_action": no_action(batch, self.spec, self.head.weight.device),
            "memory": self.initial_memory(batch),
        }

    def step(self, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
        """Select the actions of one time step of B environments: a sequence of length 1."""
        latent, memory = self.encode(
            inputs.observation.unsqueeze(1),
            inputs.state.unsqueeze(1),
            state["previous_action"].unsqueeze(1),
            inputs.return_to_go.unsqueeze(1),
            state["memory"],
        )
        logits = mask_unavailable(self.head(latent.squeeze(1)), inputs.available_actions)
        action = inputs.action
        if action is None:
            action = choose_actions(logits, inputs.uniform)
        return PolicyOutput(action, logits), {"previous_action": action, "memory": memory}

    def agent_memory(self, state: State, number: int) -> State:
        """Return the memory of one agent; see `SequencePolicy.agent_memory`."""
        return tree_map(lambda values: values[:, number], state["memory"])

    def agent_step(
        self, inputs: Mapping[str, Tensor], agent: Tensor, memory: State
    ) -> tuple[Tensor, Tensor | None, State]:
        """Take the step of one agent; see `SequencePolicy.agent_step`."""
        unused = inputs["observation"].new_zeros(0)

        def alone(name: str) -> Tensor:
            return inputs[name][:, None, None] if name in inputs else unused

        latent, memory = self.encode(
            alone("observation"),
            alone("global_state"),
            alone("previous_action"),
            inputs["return_to_go"].unsqueeze(1) if "return_to_go" in inputs else unused,
            tree_map(lambda values: values.unsqueeze(1), memory),
            agent=agent if agent.ndim == 0 else agent[:, None, None],
        )
        logits = mask_unavailable(self.head(latent[:, 0, 0]), inputs["available_actions"])
        return logits, None, tree_map(lambda values: values.squeeze(1), memory)
