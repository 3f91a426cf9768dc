"""Things whose memory is measured in a child process, which imports them from here."""

from __future__ import annotations

import torch

from harness.measure import Action


def allocating(held: int, mebibytes: int) -> Action:
    """Return an action that allocates and frees `mebibytes` while `held` MiB are held."""
    inputs = torch.ones(held << 18)

    def action() -> float:
        return float(torch.ones(mebibytes << 18).sum() + inputs[0])

    return action


def fail() -> Action:
    raise ValueError("there is nothing to prepare")


def die() -> Action:
    raise SystemExit(1)
