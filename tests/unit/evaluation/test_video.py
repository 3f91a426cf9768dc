"""GIFs: every frame, in its colors, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mads4.evaluation.video import with_header, write_gif


def frames(count: int) -> list[np.ndarray]:
    """A red square that moves over a blue field."""
    pictures = np.full((count, 40, 60, 3), (0, 80, 160), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        picture[10:20, index : index + 10] = (230, 30, 20)
    return list(pictures)


def test_frames_and_rate_survive(tmp_path: Path) -> None:
    given = frames(12)
    write_gif(tmp_path / "videos" / "episode.gif", given, fps=20)
    with Image.open(tmp_path / "videos" / "episode.gif") as image:
        assert image.n_frames == 12
        assert image.info["duration"] == 50
        assert image.info["loop"] == 0
        for index in (0, 5, 11):
            image.seek(index)
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - given[index]).max() <= 4
    assert (tmp_path / "videos" / "episode.gif").stat().st_size < 12_000


@pytest.mark.parametrize(
    ("given", "fps", "what"),
    [
        ([], 10, "at least one frame"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], 10, "same size"),
        ([np.zeros((4, 4, 3), np.uint8)], 0, "fps=0"),
        ([np.zeros((4, 4, 3), np.uint8)], 100, "fps=100"),
    ],
)
def test_nonsense_is_refused(
    tmp_path: Path, given: list[np.ndarray], fps: float, what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        write_gif(tmp_path / "x.gif", given, fps)
    assert not list(tmp_path.iterdir())


def test_header_lies_above_the_picture() -> None:
    frame = np.full((40, 200, 3), 7, dtype=np.uint8)
    one = with_header(frame, {"step": "1 / 500", "delivered": "0"})
    two = with_header(frame, {"step": "2 / 500", "delivered": "0"})
    assert one.shape == (78, 200, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one[38:], frame)
    assert (one[:38, :100] != two[:38, :100]).any()
    np.testing.assert_array_equal(one[:38, 100:], two[:38, 100:])


def test_narrow_pictures_get_margins() -> None:
    frame = np.full((40, 50, 3), 7, dtype=np.uint8)
    shown = with_header(frame, {"step": "1 / 500", "delivered": "0"})
    assert shown.shape == (78, 160, 3)
    np.testing.assert_array_equal(shown[38:, 55:105], frame)
    assert (shown[38:, :55] == 255).all() and (shown[38:, 105:] == 255).all()
