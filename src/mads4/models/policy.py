"""The MADS4 policy: agents that decide one after another and hand a small message on.

Within a time step, agent i reads its own inputs and the message of its immediate predecessor, and
writes one for its successor; all agents share the weights, and gradients of agent i's loss reach
agent i - 1 through the message. `_advance` is the one place where an agent's input is put together
and the network is run; `forward` uses it over whole sequences (S4's convolutional view), `step`
over one time step (its recurrent view).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.embedding import InputEmbedding
from mads4.nn.blocks import S4Stack, StackState
from mads4.types import Decision, EnvSpec, PolicyInput, SequenceBatch

MESSAGES = ("none", "output")


@dataclass(frozen=True)
class PolicyState:
    """What the policy remembers of B environments between two steps."""

    agents: tuple[StackState, ...]
    """Each agent's S4 states, (B, H, N) a block; one entry for all, (B · agents, H, N), if no
    message makes the agents wait for each other."""
    previous_action: Tensor
    """(B, n_agents) int64, -1 before the first step."""


class Mads4Policy(nn.Module):
    """A shared S4 network for all agents, with a message from each agent to the next.

    Args:
        spec: the environment's sizes.
        n_layers: S4 blocks.
        d_model: H, the network's width.
        d_state: N, state size of each of the H state-space models.
        dropout: probability of dropping a channel of a block's contribution, in training.
        message: ``output`` (a projection of the predecessor's network output) or ``none``.
        message_dim: features of the message.
        use_return: condition on the return-to-go.
        use_state: feed the global state.
        use_previous_action: feed the agent's own previous action.
        **ssm: options of `mads4.nn.S4Layer`.

    Raises:
        ValueError: an unknown or impossible option.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        n_layers: int = 3,
        d_model: int = 96,
        d_state: int = 96,
        dropout: float = 0.1,
        message: str = "output",
        message_dim: int = 16,
        use_return: bool = True,
        use_state: bool = True,
        use_previous_action: bool = True,
        **ssm: Any,
    ) -> None:
        super().__init__()
        if message not in MESSAGES:
            raise ValueError(f"message: got '{message}', expected one of {', '.join(MESSAGES)}.")
        self.spec = spec
        self.embedding = InputEmbedding(
            spec,
            d_model,
            use_return=use_return,
            use_state=use_state,
            use_previous_action=use_previous_action,
        )
        self.stack = S4Stack(d_model, d_state, n_layers, dropout, **ssm)
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, spec.n_actions)
        self.chained = message == "output" and spec.n_agents > 1
        if self.chained:
            self.write_message = nn.Linear(d_model, message_dim)
            self.read_message = nn.Linear(message_dim, d_model, bias=False)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return action logits (B, T, N, n_actions), -inf where unavailable, for whole sequences.

        Sequences start from the zero state; padding at the end changes nothing before it.
        """
        embedded = self.embedding(
            batch.observation, batch.state, batch.previous_action, batch.return_to_go
        )
        kernels = self.stack.kernels(embedded.shape[1])

        def run(inputs: Tensor, _: int) -> Tensor:
            output: Tensor = self.stack(inputs, kernels=kernels)
            return output

        return _mask(self._decide(embedded, run), batch.available_actions)

    def initial_state(self, batch: int) -> PolicyState:
        """Return the state of `batch` environments before their first step."""
        weight = self.head.weight
        n_agents = self.spec.n_agents
        groups = (batch,) * n_agents if self.chained else (batch * n_agents,)
        return PolicyState(
            agents=tuple(
                self.stack.initial_state(rows, weight.device, weight.dtype) for rows in groups
            ),
            previous_action=torch.full((batch, n_agents), -1, device=weight.device),
        )

    def step(self, inputs: PolicyInput, state: PolicyState) -> tuple[Decision, PolicyState]:
        """Decide for one time step of B environments; equals `forward` step by step."""
        embedded = self.embedding(
            inputs.observation, inputs.state, state.previous_action, inputs.return_to_go
        )
        following: list[StackState] = []

        def run(inputs: Tensor, group: int) -> Tensor:
            output, after = self.stack.step(inputs[:, 0], state.agents[group])
            following.append(after)
            return output.unsqueeze(1)

        logits = _mask(self._decide(embedded.unsqueeze(1), run)[:, 0], inputs.available_actions)
        action = _choose(logits, inputs.uniform)
        return Decision(action, logits), PolicyState(tuple(following), action)

    def reset_rows(self, state: PolicyState, rows: Tensor) -> PolicyState:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        fresh = self.initial_state(len(rows))
        per_group = rows if self.chained else rows.repeat_interleave(self.spec.n_agents)
        return PolicyState(
            agents=tuple(
                tuple(
                    torch.where(per_group[:, None, None], new, old)
                    for new, old in zip(zeros, group, strict=True)
                )
                for zeros, group in zip(fresh.agents, state.agents, strict=True)
            ),
            previous_action=torch.where(
                rows[:, None], fresh.previous_action, state.previous_action
            ),
        )

    def _decide(self, embedded: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Return logits (B, T, N, n_actions) from embedded inputs (B, T, N, H).

        `run(inputs, group)` runs the stack over (rows, T, H): once for all agents where nobody
        waits for anybody, else once for each agent in turn.
        """
        if not self.chained:
            batch, steps, n_agents, width = embedded.shape
            rows = embedded.transpose(1, 2).reshape(batch * n_agents, steps, width)
            logits, _ = self._advance(rows, None, run, 0)
            return logits.view(batch, n_agents, steps, -1).transpose(1, 2)
        message: Tensor | None = None
        decided: list[Tensor] = []
        for agent, own in enumerate(embedded.unbind(dim=2)):
            logits, message = self._advance(own, message, run, agent)
            decided.append(logits)
        return torch.stack(decided, dim=2)

    def _advance(
        self,
        embedded: Tensor,
        message: Tensor | None,
        run: Callable[[Tensor, int], Tensor],
        group: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (rows, T, n_actions) and the message (rows, T, M) for the next agent."""
        if message is not None:
            embedded = embedded + self.read_message(message)
        output = self.norm(run(functional.relu(embedded), group))
        return self.head(output), self.write_message(output) if self.chained else None


def _mask(logits: Tensor, available_actions: Tensor) -> Tensor:
    return logits.masked_fill(~available_actions, -torch.inf)


def _choose(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """Return actions (B, N): drawn by inverting the distribution function, or the likeliest."""
    if uniform is None:
        return logits.argmax(dim=-1)
    cumulative = logits.to(torch.float64).softmax(dim=-1).cumsum(dim=-1)
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
    return (cumulative <= threshold).sum(dim=-1)


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
