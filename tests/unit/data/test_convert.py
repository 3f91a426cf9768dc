"""Conversion keeps every number, and says where it all came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_fakes import SPEC, make_episodes

from mads4.data.convert import convert
from mads4.data.dataset import Dataset
from mads4.data.files import describe
from mads4.data.formats import open_source
from mads4.data.formats.alberdice import write_alberdice
from mads4.data.store import read_dataset, read_header
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode


@dataclass
class Fake:
    """A recording of which every third episode is left out while reading."""

    files: tuple[Path, ...]
    content: list[Episode]
    name: str = "fakes"
    spec: EnvSpec = SPEC
    origin: Mapping[str, Any] = field(
        default_factory=lambda: {"format": "fake", "reader_version": 3}
    )
    skipped: dict[str, str] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        for number, episode in enumerate(self.content):
            if number % 3 == 2:
                self.skipped[f"file-{number}"] = "agents of unequal length"
            else:
                yield episode


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    source = tmp_path / "source.bin"
    source.write_bytes(b"where it came from")
    return Fake((source,), make_episodes(10))


def test_numbers_and_provenance(fake: Fake, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    header = convert(
        fake,
        tmp_path / "out.h5",
        about={"quality": "good"},
        on_progress=lambda done, words: told.append((done, words)),
    )
    kept = [episode for number, episode in enumerate(fake.content) if number % 3 != 2]
    assert header.fingerprint == Dataset.from_episodes(SPEC, kept).fingerprint
    assert read_dataset(tmp_path / "out.h5").fingerprint == header.fingerprint
    behavior = read_header(tmp_path / "out.h5").behavior
    assert behavior == {
        "format": "fake",
        "reader_version": 3,
        "quality": "good",
        "source": describe(fake.files),
        "reward_definition": "steps",
        "limit": None,
        "skipped": {
            "episodes": 3,
            "reasons": {"agents of unequal length": 3},
            "first": {f"file-{k}": "agents of unequal length" for k in (2, 5, 8)},
        },
    }
    assert header.name == "fakes"
    assert told[0] == (1, "episodes") and told[-1] == (7, "episodes, 3 skipped")


def test_a_limit_reads_no_further(fake: Fake, tmp_path: Path) -> None:
    header = convert(fake, tmp_path / "out.h5", limit=2, name="two")
    assert (len(header), header.name) == (2, "two")
    assert header.behavior["limit"] == 2
    assert header.behavior["skipped"]["episodes"] == 0


def test_a_folder_of_arrays_bit_for_bit(tmp_path: Path) -> None:
    episodes = make_episodes(5)
    write_alberdice(tmp_path / "folder", SPEC, episodes)
    header = convert(open_source("alberdice", tmp_path / "folder", SPEC), tmp_path / "out.h5")
    data = read_dataset(tmp_path / "out.h5")
    for number, before in enumerate(episodes):
        after = data.episode(number)
        for name in ("observation", "state", "available_actions", "action", "reward"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert header.behavior["source"]["count"] == 8


@pytest.mark.parametrize(
    ("change", "limit", "message"),
    [
        ({}, 0, "at least one episode, got the limit 0"),
        ({"content": []}, None, "it holds none"),
        ({"content": make_episodes(3)[2:]}, None, "cannot be stored"),
    ],
)
def test_nothing_is_left_behind_by_a_mistake(
    fake: Fake, tmp_path: Path, change: dict[str, Any], limit: int | None, message: str
) -> None:
    wrong = replace(fake, **change)
    if message == "cannot be stored":
        wrong.spec = replace(SPEC, n_actions=9)
    with pytest.raises(UserError, match=message):
        convert(wrong, tmp_path / "out.h5", limit=limit)
    assert {path.name for path in tmp_path.iterdir()} == {"source.bin"}


def test_when_all_are_left_out_it_says_why(fake: Fake, tmp_path: Path) -> None:
    class Picky(Fake):
        def episodes(self) -> Iterator[Episode]:
            self.skipped["file-0"] = "damaged end"
            return iter(())

    with pytest.raises(UserError, match=r"No episode of fakes can be used: damaged end \(1\)"):
        convert(Picky(fake.files, []), tmp_path / "out.h5")
