"""Episodes as animated GIFs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mads4.io import atomic_path
from mads4.rollout import StepEvent

_COLORS = 96  # flat drawings with smooth edges; one transparent entry must remain of 256
_PALETTE_FRAMES = 6
_HEADER, _COLUMN = 38, 80  # pixels: the strip's height, the least width of one value
_PAPER, _INK, _FAINT = "#FFFFFF", "#26323D", "#6B7784"


class VideoRecorder:
    """Rollout callback that renders the first episode.

    Args:
        steps: length of the video; None for the whole episode.
    """

    def __init__(self, steps: int | None) -> None:
        self._steps = steps
        self._frames: list[npt.NDArray[np.uint8]] = []

    @property
    def frames(self) -> list[npt.NDArray[np.uint8]]:
        """The frames, padded to the widest: metrics may appear on the way."""
        width = max((frame.shape[1] for frame in self._frames), default=0)
        return [
            np.pad(frame, ((0, 0), (0, width - frame.shape[1]), (0, 0)), constant_values=255)
            for frame in self._frames
        ]

    def __call__(self, event: StepEvent) -> None:
        """Render a frame with a strip of metrics above it."""
        if event.index != 0 or (self._steps is not None and event.step > self._steps):
            return
        values = {"step": f"{event.step} / {event.env.spec.episode_limit}"}
        values |= {name: f"{value:g}" for name, value in event.metrics.items()}
        values["return-to-go"] = f"{event.return_to_go:.1f}"
        self._frames.append(with_header(event.env.render(), values))


def with_header(frame: npt.NDArray[np.uint8], values: Mapping[str, str]) -> npt.NDArray[np.uint8]:
    """Return an environment's picture with a strip of captions and values above it.

    Args:
        frame: (height, width, 3) uint8.
        values: Captions and values, for example
            ``{"step": "120 / 500", "delivered": "7", "return-to-go": "12"}``.

    Returns:
        (height + 38, at least width, 3) uint8; narrow pictures get white margins.
    """
    lacking = max(0, _COLUMN * len(values) - frame.shape[1])
    margins = ((0, 0), (lacking // 2, lacking - lacking // 2), (0, 0))
    frame = np.pad(frame, margins, constant_values=255)
    strip = Image.new("RGB", (frame.shape[1], _HEADER), _PAPER)
    draw = ImageDraw.Draw(strip)
    column = strip.width / len(values)
    for index, (caption, value) in enumerate(values.items()):
        center = (index + 0.5) * column
        draw.text((center, 11), caption, fill=_FAINT, font=_font(11), anchor="mm")
        draw.text((center, 27), value, fill=_INK, font=_font(16), anchor="mm")
    return np.concatenate([np.asarray(strip, dtype=np.uint8), frame])


def write_gif(path: Path, frames: Sequence[npt.NDArray[np.uint8]], fps: float = 10.0) -> None:
    """Write frames of equal size, each (height, width, 3) uint8, as an endless GIF.

    All frames share one palette without dithering, so that whatever stands still is stored once.

    Raises:
        ValueError: when there are no frames, their sizes differ or `fps` is not within (0, 50],
            the rates that viewers honor.
    """
    if not frames:
        raise ValueError("a GIF needs at least one frame")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("all frames of a GIF must have the same size")
    if not 0 < fps <= 50:
        raise ValueError(f"fps={fps}: GIF viewers honor rates above 0 and up to 50")
    palette = _common_palette(frames)
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    with atomic_path(path) as beside:
        images[0].save(
            beside,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=round(100 / fps) * 10,
            loop=0,
            optimize=False,
        )


@lru_cache(maxsize=4)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, so that pictures do not depend on what is installed."""
    return ImageFont.load_default(size)


def _common_palette(frames: Sequence[npt.NDArray[np.uint8]]) -> Image.Image:
    """Return an image whose palette suits all frames, chosen from some spread over the episode."""
    chosen = np.linspace(0, len(frames) - 1, min(_PALETTE_FRAMES, len(frames))).round().astype(int)
    joined = np.concatenate([frames[index] for index in chosen])
    return Image.fromarray(joined).quantize(colors=_COLORS, method=Image.Quantize.MEDIANCUT)
