"""A picture of a warehouse, drawn with Pillow: needs no display, the same on any machine.

Colors are from Okabe and Ito's colorblind-safe palette; everything that matters also has a shape
(heading: a nose; requested: a dot; carried: a dark frame).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from rware.warehouse import Warehouse

AISLE, SLOT, GRID = "#F7F5F0", "#E9E5DC", "#DDD8CC"
SHELF, SHELF_EDGE = "#A9B4BF", "#8793A0"
REQUESTED, REQUESTED_EDGE = "#E69F00", "#B87A00"
GOAL, ROBOT, FAINT, PAPER = "#009E73", "#0B4F8A", "#6B7784", "#FFFFFF"

_SMOOTH = 3  # supersampling factor, for smooth edges
_MIN_WIDTH = 240  # pixels, for a readable legend below a narrow warehouse
_LEGEND, _MARGIN = 22, 8  # pixels

_NOSE_DEGREES = {"RIGHT": 0, "DOWN": 90, "LEFT": 180, "UP": 270}
Box = tuple[float, float, float, float]


def render(
    warehouse: Warehouse | Any, cell: int = 24, legend: bool = True
) -> npt.NDArray[np.uint8]:
    """Return a picture of the warehouse's present state.

    Args:
        warehouse: RWARE's own environment (``env.unwrapped``), after a reset.
        cell: side of a grid cell in pixels.
        legend: whether to draw a legend below the grid.

    Returns:
        (height, width, 3) uint8, RGB.
    """
    grid = _grid_image(warehouse, cell)
    bottom = _LEGEND if legend else _MARGIN
    width = max(grid.width + 2 * _MARGIN, _MIN_WIDTH)
    picture = Image.new("RGB", (width, _MARGIN + grid.height + bottom), PAPER)
    picture.paste(grid, ((width - grid.width) // 2, _MARGIN))
    if legend:
        strip = _legend_image(width, bottom)
        picture.paste(strip, (0, picture.height - bottom))
    return np.asarray(picture, dtype=np.uint8)


def _grid_image(warehouse: Any, cell: int) -> Image.Image:
    """Draw floor, shelves and robots."""
    side = cell * _SMOOTH
    rows, columns = warehouse.grid_size
    slots = np.asarray(warehouse.highways) == 0
    goals = tuple((int(x), int(y)) for x, y in warehouse.goals)
    image = _floor(slots.tobytes(), (rows, columns), goals, side).copy()
    draw = ImageDraw.Draw(image)
    requested = {shelf.id for shelf in warehouse.request_queue}
    carried = {agent.carrying_shelf.id for agent in warehouse.agents if agent.carrying_shelf}
    for shelf in warehouse.shelfs:
        box = _cell_box(shelf.x, shelf.y, side)
        _draw_shelf(draw, box, shelf.id in requested, shelf.id in carried)
    for agent in warehouse.agents:
        _draw_robot(draw, _cell_box(agent.x, agent.y, side), agent.dir.name, str(agent.id))
    return image.reduce(_SMOOTH)


@lru_cache(maxsize=8)
def _floor(
    slots: bytes, size: tuple[int, int], goals: tuple[tuple[int, int], ...], side: int
) -> Image.Image:
    """Draw the static part: aisles, shelf slots (one bool per cell) and goals."""
    rows, columns = size
    image = Image.new("RGB", (columns * side, rows * side), GRID)
    draw = ImageDraw.Draw(image)
    for index, is_slot in enumerate(slots):
        box = _cell_box(index % columns, index // columns, side)
        draw.rectangle(_inset(box, 0.02), fill=SLOT if is_slot else AISLE)
    for x, y in goals:
        _draw_goal(draw, _cell_box(x, y, side))
    return image


def _draw_goal(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw a green cell with an arrow onto a tray: shelves are delivered here."""
    draw.rectangle(_inset(box, 0.02), fill=GOAL)
    left, top, side = box[0], box[1], box[2] - box[0]

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(left + x * side, top + y * side) for x, y in points]

    draw.rectangle(at((0.44, 0.18), (0.56, 0.46)), fill=PAPER)
    draw.polygon(at((0.29, 0.42), (0.71, 0.42), (0.5, 0.66)), fill=PAPER)
    draw.rectangle(at((0.22, 0.74), (0.78, 0.83)), fill=PAPER)


def _draw_shelf(draw: ImageDraw.ImageDraw, box: Box, requested: bool, carried: bool) -> None:
    """Draw a plate; a dot marks a requested shelf, a dark frame a carried one."""
    side = box[2] - box[0]
    fill, edge = (REQUESTED, REQUESTED_EDGE) if requested else (SHELF, SHELF_EDGE)
    outline, width = (ROBOT, 0.09) if carried else (edge, 0.06)
    draw.rounded_rectangle(
        _inset(box, 0.02 if carried else 0.1),
        radius=0.16 * side,
        fill=fill,
        outline=outline,
        width=round(width * side),
    )
    if requested:
        draw.ellipse(_inset(box, 0.38), fill=PAPER)


def _draw_robot(draw: ImageDraw.ImageDraw, box: Box, heading: str, label: str) -> None:
    """Draw a disc with the agent's number and a nose that points in its heading."""
    side = box[2] - box[0]
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    angle = np.deg2rad(_NOSE_DEGREES[heading])
    for color, rim in ((PAPER, 0.05), (ROBOT, 0.0)):
        nose = [
            (center[0] + reach * side * np.cos(turn), center[1] + reach * side * np.sin(turn))
            for reach, turn in (
                (0.48 + rim, angle),
                (0.30 + 1.6 * rim, angle + 1.05),
                (0.30 + 1.6 * rim, angle - 1.05),
            )
        ]
        draw.polygon(nose, fill=color)
        draw.ellipse(_inset(box, 0.19 - rim), fill=color)
    font = load_font(side * (0.46 if len(label) == 1 else 0.36))
    draw.text(center, label, fill=PAPER, font=font, anchor="mm", stroke_width=side / 100)


@lru_cache(maxsize=4)
def _legend_image(width: int, height: int) -> Image.Image:
    """Draw an example of each shape with its name."""
    image = Image.new("RGB", (width * _SMOOTH, height * _SMOOTH), PAPER)
    draw = ImageDraw.Draw(image)
    side, font = 13 * _SMOOTH, load_font(10 * _SMOOTH)
    names = ("robot", "carrying", "requested", "goal")
    gap = 4 * _SMOOTH
    lengths = [side + gap + draw.textlength(name, font=font) for name in names]
    space = (image.width - sum(lengths)) / (len(names) + 1)
    left, middle = space, image.height / 2
    for name, length in zip(names, lengths, strict=True):
        box = (left, middle - side / 2, left + side, middle + side / 2)
        if name == "goal":
            _draw_goal(draw, box)
        if name in ("carrying", "requested"):
            _draw_shelf(draw, box, requested=name == "requested", carried=name == "carrying")
        if name in ("carrying", "robot"):
            _draw_robot(draw, box, "UP", "")
        draw.text((left + side + gap, middle), name, fill=FAINT, font=font, anchor="lm")
        left += length + space
    return image.reduce(_SMOOTH)


@lru_cache(maxsize=16)
def load_font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font in a size (pixels): the same whatever fonts are installed."""
    return ImageFont.load_default(size)


def _cell_box(x: int, y: int, side: int) -> Box:
    """Return left, top, right, bottom of the cell in column `x` and row `y`."""
    return x * side, y * side, (x + 1) * side - 1, (y + 1) * side - 1


def _inset(box: Box, share: float) -> Box:
    """Return the box shrunk on each side by `share` of its width."""
    by = share * (box[2] - box[0])
    return box[0] + by, box[1] + by, box[2] - by, box[3] - by
