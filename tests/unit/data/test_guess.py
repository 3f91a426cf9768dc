"""Recognizing formats by names and first bytes, and schemas of plug-in formats."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from recording_fakes import SPEC, make_episodes

from mads4.data import formats as package
from mads4.data.formats import formats, guess_format, looks_like
from mads4.data.formats.alberdice import write_alberdice
from mads4.data.formats.madt import write_madt
from mads4.data.observation_layouts import MAPPO, OXWHIRL, builder, recognized
from mads4.data.settings import DATASETS, RecordedDataset
from mads4.data.store import write_dataset
from mads4.errors import UserError


def test_what_our_writers_write_is_recognized(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.h5", SPEC, make_episodes(2))
    write_alberdice(tmp_path / "arrays", SPEC, make_episodes(2))
    write_madt(tmp_path / "3m" / "good", SPEC, make_episodes(2))
    (tmp_path / "3m.vlt" / "Good").mkdir(parents=True)
    found = {
        name: guess_format(tmp_path / name)
        for name in ("a.h5", "arrays", "3m/good", "3m.vlt", "3m.vlt/Good")
    }
    assert found == {
        "a.h5": "hdf5",
        "arrays": "alberdice",
        "3m/good": "madt",
        "3m.vlt": "og_marl",
        "3m.vlt/Good": "og_marl",
    }


def test_what_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert looks_like(tmp_path / "notes.txt") is None
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=r"none of the known formats.*--from"):
            guess_format(path)
    with pytest.raises(UserError, match="no file or folder"):
        guess_format(tmp_path / "gone")


def test_builders_are_told_apart_by_their_sizes() -> None:
    assert builder("smac", "corridor", 346) == MAPPO
    assert builder("smac", "corridor", 156) == OXWHIRL
    assert builder("smac", "arena", 30) is None
    assert builder("smac", "3m", 64) == MAPPO
    assert builder("smac", "3m", 30) == OXWHIRL
    assert builder("smac", "3m", 31) is None
    assert builder("rware", "3m", 30) is None


def test_what_recorded_a_map_is_recognized_by_all_sizes() -> None:
    names = {"name": "smac", "scenario": "3m", "reward": "smac", "state_encoding": "mappo"}
    assert recognized("3m", 3, 64, 81, 9) == names
    assert recognized("2c_vs_64zg", 2, 478, 675, 70) == names | {"scenario": "2c_vs_64zg"}
    others = [(4, 64, 81, 9), (3, 65, 81, 9), (3, 64, 80, 9), (3, 64, 81, 8), (3, 30, 48, 9)]
    assert not any(recognized("3m", *sizes) for sizes in others)
    assert recognized("arena", 3, 64, 81, 9) == {}


def test_a_module_with_a_format_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "walks.py").write_text(
        "from mads4.data.formats.base import Format\n"
        "from mads4.data.settings import DATASETS, RecordedDataset\n"
        "@DATASETS.register('walks')\n"
        "class WalksDataset(RecordedDataset):\n"
        "    gait: str = 'slow'\n"
        "    def reader_options(self, entry):\n"
        "        return {'gait': self.gait}\n"
        "FORMAT = Format(open, lambda path: path.suffix == '.walk', 'a .walk file')\n"
    )
    (tmp_path / "helper.py").write_text("FORMAT = 'no format'\n")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    formats.cache_clear()
    try:
        (tmp_path / "a.walk").touch()
        schema = DATASETS.schema("walks")
        assert issubclass(schema, RecordedDataset)
        assert schema(name="walks").reader_options(None) == {"gait": "slow"}
        assert "walks" in formats() and "helper" not in formats()
        assert guess_format(tmp_path / "a.walk") == "walks"
    finally:
        formats.cache_clear()
        DATASETS._schemas.pop("walks", None)
        for name in ("walks", "helper"):
            sys.modules.pop(f"{package.__name__}.{name}", None)
            vars(package).pop(name, None)
