"""How one experiment's seed becomes the seeds of its parts."""

from __future__ import annotations

import numpy as np


def environment_seed(seed: int, episode: int) -> int:
    """Return the seed of episode `episode`'s environment, a 31-bit hash of (seed, episode)."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0] >> 1)
