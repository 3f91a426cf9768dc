"""What every trainable policy is able to do, in its two views."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mads4.models.embedding import InputEmbedding
from mads4.models.policy_state import PolicyState
from mads4.models.sequence_view import PolicySequence
from mads4.types import EnvSpec, PolicyInput, PolicyOutput, SequenceBatch


class SequencePolicy(nn.Module, ABC):
    """A policy over sequences and over time steps, the same function in both.

    Axes: ``B`` batch, ``T`` time, ``N`` agents.
    """

    spec: EnvSpec
    embedding: InputEmbedding
    agent_order: str
    """``fixed``, or ``random``: drawn for each episode."""
    latent_dim: int
    """H, features of `PolicySequence.latent`."""

    @abstractmethod
    def forward(
        self, batch: SequenceBatch, *, order: Tensor | None = None, lost: Tensor | None = None
    ) -> Tensor:
        """Return action logits (B, T, N, n_actions), -inf where unavailable, for whole sequences.

        Sequences start from the zero state; padding at the end changes nothing before it.

        Args:
            batch: trajectories.
            order: (B, N) int64, who decides first, second …; None draws it in training if it is
                random, else takes the order of numbers.
            lost: (B, T, N) bool, hand-offs that do not reach an agent; None draws them in training
                if the policy trains with losses, else loses none.
        """

    @abstractmethod
    def sequence(
        self,
        batch: SequenceBatch,
        *,
        order: Tensor | None = None,
        lost: Tensor | None = None,
        state: PolicyState | None = None,
        return_state: bool = False,
    ) -> PolicySequence:
        """Return all that the policy makes of sequences that begin anew or go on from a state.

        Nothing is drawn: the order of numbers and no losses unless they are given.

        Args:
            batch: trajectories, or segments of them.
            order: as in `forward`.
            lost: as in `forward`.
            state: left by what came before, for example by `step`; None for the beginning.
            return_state: also return the state after the last step.
        """

    def draw(
        self, action: Tensor, order: Tensor | None = None, lost: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return `order` and `lost`, drawn from PyTorch's random stream where training draws them.

        Args:
            action: (B, T, N), of the batch.
            order: as in `forward`; what is given is not drawn.
            lost: likewise.
        """
        return order, lost

    @abstractmethod
    def initial_state(self, batch: int) -> PolicyState:
        """Return the state of `batch` environments before their first step."""

    @abstractmethod
    def step(self, inputs: PolicyInput, state: PolicyState) -> tuple[PolicyOutput, PolicyState]:
        """Decide for one time step of B environments; equals `forward` step by step."""

    @abstractmethod
    def reset_rows(self, state: PolicyState, rows: Tensor) -> PolicyState:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
