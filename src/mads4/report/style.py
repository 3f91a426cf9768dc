"""What the pictures have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, LINES = "#26323D", "#6B7784", "#D9DEE3"


def grouped(value: float) -> str:
    """Return a whole number with its digits in groups of three."""
    return f"{value:,.0f}".replace(",", " ")


def leave_empty(axes: Axes, why: str) -> None:
    """Say in words why there is nothing to see."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", color=FAINT, fontsize=11, transform=axes.transAxes)


def quiet(axes: Axes, title: str = "") -> None:
    """Give axes a quiet frame: what is drawn counts, not the box."""
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINES)
    axes.tick_params(colors=FAINT)
    axes.grid(color=LINES, linewidth=0.6)
    axes.set_axisbelow(True)
