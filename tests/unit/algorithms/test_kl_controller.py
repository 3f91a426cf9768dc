"""The leash's weight follows the divergence, within bounds."""

from __future__ import annotations

import pytest

from mads4.algorithms.kl_controller import BOUNDS, STEP, AdaptiveKLController


@pytest.mark.parametrize(
    ("divergence", "factor"),
    [(0.0, 1 / STEP), (0.06, 1 / STEP), (0.08, 1.0), (0.1, 1.0), (0.14, 1.0), (0.16, STEP)],
)
def test_it_pulls_harder_too_far_away_and_more_softly_close_by(
    divergence: float, factor: float
) -> None:
    leash = AdaptiveKLController(0.5, allowed=0.1)
    leash.follow(divergence)
    assert leash.weight == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(("divergence", "end"), [(0.0, BOUNDS[0]), (9.0, BOUNDS[1])])
def test_the_weight_has_bounds(divergence: float, end: float) -> None:
    leash = AdaptiveKLController(1.0, allowed=0.1)
    for _ in range(100):
        leash.follow(divergence)
    assert leash.weight == end


def test_no_leash_stays_none() -> None:
    leash = AdaptiveKLController(0.0, allowed=0.1)
    leash.follow(9.0)
    assert leash.weight == 0.0
