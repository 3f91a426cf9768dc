"""Damaged files: an error for the user or episodes that fit their spec, never anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_fakes import SPEC, make_episodes

from mads4.data.dataset import Dataset
from mads4.data.formats import open_source
from mads4.data.formats.alberdice import write_alberdice
from mads4.data.formats.og_marl_write import write_og_marl
from mads4.data.store import write_dataset
from mads4.errors import UserError

EPISODES = [replace(episode, metrics={}) for episode in make_episodes(4)]


def write_vault(folder: Path) -> None:
    pytest.importorskip("tensorstore")
    write_og_marl(folder.with_suffix(".vlt"), SPEC, EPISODES, "Good")
    folder.with_suffix(".vlt").rename(folder)


def write_file(folder: Path) -> None:
    folder.mkdir()
    write_dataset(folder / "walk.h5", SPEC, EPISODES)


WRITERS: dict[str, Callable[[Path], object]] = {
    "alberdice": lambda folder: write_alberdice(folder, SPEC, EPISODES),
    "hdf5": write_file,
    "og_marl": write_vault,
}


def attempt(data_format: str, folder: Path) -> tuple[str | None, str | None]:
    """Read everything; return the content's fingerprint or the message to the user."""
    path = folder / "walk.h5" if data_format == "hdf5" else folder
    try:
        recording = open_source(data_format, path, SPEC)
        return Dataset.from_episodes(recording.spec, recording.episodes()).fingerprint, None
    except UserError as error:
        return None, str(error)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip bytes, cut the end off, or put something else there."""
    kind = rng.integers(4)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        return content + rng.bytes(7)
    changed = bytearray(content)
    start = min(int(rng.integers(150)) if kind == 2 else len(content), len(content) - 1)
    for place in rng.integers(start + 1, size=rng.integers(1, 4)):
        changed[place] = rng.integers(256)
    return bytes(changed)


def fuzz(data_format: str, folder: Path, rounds: int, seed: int) -> int:
    """Damage one file at a time and return how often that was found."""
    WRITERS[data_format](folder)
    whole = attempt(data_format, folder)
    assert whole[0]
    rng, found = np.random.default_rng(seed), 0
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for turn in range(rounds):
        file = files[turn % len(files)]
        before = file.read_bytes()
        file.write_bytes(damaged(before, rng))
        fingerprint, message = attempt(data_format, folder)
        file.write_bytes(before)
        found += message is not None
        if message:
            assert str(folder) in message or "cannot be stored" in message
        elif data_format != "alberdice":  # which has no checksums
            assert fingerprint == whole[0]
    assert attempt(data_format, folder) == whole
    return found


@pytest.mark.parametrize(("data_format", "rounds"), [("alberdice", 300), ("hdf5", 60)])
def test_damage_is_an_error_for_the_user(tmp_path: Path, data_format: str, rounds: int) -> None:
    assert fuzz(data_format, tmp_path / "data", rounds, seed=0) > rounds // 4


def test_damaged_vaults_are_an_error_for_the_user(tmp_path: Path) -> None:
    assert fuzz("og_marl", tmp_path / "data", 100, seed=0) > 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("data_format", WRITERS)
def test_much_damage_is_an_error_for_the_user(tmp_path: Path, data_format: str, seed: int) -> None:
    assert fuzz(data_format, tmp_path / "data", 1000, seed) > 150
