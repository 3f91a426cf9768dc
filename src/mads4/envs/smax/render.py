"""A picture of a battle, drawn with Pillow: needs no display, the same on any machine.

Sides differ in color (Okabe and Ito's palette) and shape: allies are discs, enemies squares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mads4.envs.rware_render import load_font
from mads4.envs.smax.engine import STOP

if TYPE_CHECKING:
    from mads4.envs.smax.engine import Rules, Units

GROUND, EDGE, PAPER, INK = "#F7F5F0", "#A9B4BF", "#FFFFFF", "#26323D"
ALLY, ENEMY, SHOT = "#0072B2", "#D55E00", "#CC79A7"
_UNIT = 12  # pixels for a distance of one
_SMOOTH = 2  # supersampling factor, for smooth edges
_LEAST_RADIUS = 0.55  # smaller units are drawn larger than they are


def render(units: Units, rules: Rules) -> npt.NDArray[np.uint8]:
    """Return a picture of the battle, (height, width, 3) uint8 RGB.

    Each living unit is labeled with the first letter of its type and has a health bar.
    """
    scale = _UNIT * _SMOOTH
    size = (round(rules.size[0] * scale), round(rules.size[1] * scale))
    image = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=EDGE, width=2 * _SMOOTH)
    places = units.position * scale
    places[:, 1] = size[1] - places[:, 1]  # north is up
    living = [int(unit) for unit in np.flatnonzero(units.alive)]
    for unit in living:
        other = _attacked(units, unit, rules.n_allies)
        if other is not None and units.alive[other]:
            ends = [tuple(map(float, places[unit])), tuple(map(float, places[other]))]
            draw.line(ends, fill=SHOT, width=_SMOOTH)
    for unit in living:
        kind = int(units.kind[unit])
        radius = max(float(rules.radius[kind]), _LEAST_RADIUS) * scale
        share = float(units.health[unit] / rules.health[kind])
        letter = rules.names[kind][0]
        _draw_unit(draw, places[unit], radius, unit < rules.n_allies, letter, share)
    return np.asarray(image.reduce(_SMOOTH), dtype=np.uint8)


def _attacked(units: Units, unit: int, n_allies: int) -> int | None:
    """Return the unit that `unit` attacked last; None if it moved or stopped."""
    number = int(units.target[unit]) - STOP - 1
    if number < 0:
        return None
    # enemies number their targets backwards, from the last ally
    return n_allies + number if unit < n_allies else n_allies - 1 - number


def _draw_unit(
    draw: ImageDraw.ImageDraw,
    place: npt.NDArray[Any],
    radius: float,
    ally: bool,
    letter: str,
    share: float,
) -> None:
    x, y = float(place[0]), float(place[1])
    box = (x - radius, y - radius, x + radius, y + radius)
    if ally:
        draw.ellipse(box, fill=ALLY)
    else:
        draw.rectangle(box, fill=ENEMY)
    draw.text((x, y), letter, fill=PAPER, font=load_font(1.3 * radius), anchor="mm")
    top, height = y - 1.5 * radius, 0.25 * radius
    draw.rectangle((x - radius, top, x + radius, top + height), fill=EDGE)
    draw.rectangle((x - radius, top, x + radius * (2 * share - 1), top + height), fill=INK)
