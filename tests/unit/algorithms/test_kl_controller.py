"""The controller's weight follows the divergence, within bounds."""

from __future__ import annotations

import pytest

from mads4.algorithms.mappo import KL_COEF_BOUNDS, KL_STEP, AdaptiveKLController


@pytest.mark.parametrize(
    ("divergence", "factor"),
    [
        (0.0, 1 / KL_STEP),
        (0.06, 1 / KL_STEP),
        (0.08, 1.0),
        (0.1, 1.0),
        (0.14, 1.0),
        (0.16, KL_STEP),
    ],
)
def test_it_pulls_harder_too_far_away_and_more_softly_close_by(
    divergence: float, factor: float
) -> None:
    controller = AdaptiveKLController(0.5, target=0.1)
    controller.update(divergence)
    assert controller.coef == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(("divergence", "end"), zip((0.0, 9.0), KL_COEF_BOUNDS, strict=True))
def test_the_weight_has_bounds(divergence: float, end: float) -> None:
    controller = AdaptiveKLController(1.0, target=0.1)
    for _ in range(100):
        controller.update(divergence)
    assert controller.coef == end


def test_no_leash_stays_none() -> None:
    controller = AdaptiveKLController(0.0, target=0.1)
    controller.update(9.0)
    assert controller.coef == 0.0
