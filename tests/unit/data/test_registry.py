"""The registry of published data sets: complete, consistent, and easy to ask wrongly."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

import pytest

from mads4.data import registry
from mads4.data.formats import formats
from mads4.data.formats.alberdice import DEFINITIONS
from mads4.data.registry import choose, entries, find, parse
from mads4.envs.matrix_game import MatrixGame
from mads4.errors import UserError


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path))
    return tmp_path


def test_every_entry_can_be_used() -> None:
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names) > 50
    for entry in entries():
        assert entry.format in formats()
        assert entry.quality == entry.quality.lower()
        assert (entry.uid is not None) == (entry.format == "og_marl")
        assert entry.license and entry.origin and "{" not in entry.folder
        for address in entry.addresses:
            assert urllib.parse.urlsplit(address).scheme == "https" and "{" not in address
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert str(entry.place) in entry.how_to_get() or entry.name in entry.how_to_get()


def test_what_was_published() -> None:
    entry = find("OMIGA/2c_vs_64zg-Poor")
    assert (entry.uid, entry.return_mean, entry.episodes) == ("Poor", 8.91, 348)
    assert entry.sha256 is None and entry.bytes is None
    assert entry.addresses[0].endswith("/prior_work/omiga/smac_v1/2c_vs_64zg.zip")
    assert find("alberdice/small-6ag-expert").folder == "alberdice/rware-small-6ag-easy-v4-expert"
    assert find("cfcql/2s3z-medium-replay").uid == "Medium-Replay"


def test_rewards_are_named_as_the_environments_name_them() -> None:
    assert find("alberdice-matrix/2x2-buffer_02").reward == MatrixGame().spec.reward
    assert find("alberdice/tiny-2ag-expert").reward == DEFINITIONS["rware"]["reward"]
    assert {entry.reward for entry in entries() if entry.env == "smac"} == {"smac"}


def test_sets_of_one_archive_share_it(data_dir: Path) -> None:
    poor, good = find("og-marl/3m-poor"), find("og-marl/3m-good")
    assert poor.archive == good.archive == data_dir / "downloads/og-marl/smac_v1/3m.zip"
    assert not good.is_here
    good.place.mkdir(parents=True)
    assert not good.is_here
    (good.place / "3m.vlt").mkdir()
    assert good.is_here and poor.is_here and good.to_dict()["here"]


def test_adding_a_data_set_takes_a_few_lines() -> None:
    about = {
        "format": "hdf5",
        "env": "toy",
        "reward": "",
        "license": "CC0",
        "addresses": ["https://example.org/{scenario}.zip"],
        "folder": "toys/{scenario}",
        "from": "nobody",
        "sets": {"pair": {"good": {"bytes": 7, "sha256": "ab", "return": 1.5}}},
    }
    (entry,) = parse({"toys": about})
    assert (entry.name, entry.bytes, entry.uid) == ("toys/pair-good", 7, None)
    assert entry.addresses == ("https://example.org/pair.zip",)


def test_one_fits_the_environment() -> None:
    assert choose("madt", "smac", "3m", "GOOD").name == "madt/3m-good"
    assert choose("og_marl", "rware", "tiny-4ag", "expert").return_mean == 15.67


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            ("madt", "rware", "tiny-2ag", "good"),
            "no data set .* for env rware; it has some for smac",
        ),
        (("madt", "smac", "27m_vs_30m", "good"), "3m, 5m_vs_6m, 2c_vs_64zg, 6h_vs_8z, corridor"),
        (("og_marl", "smac", "3m", "splendid"), "got 'splendid'.*there are poor, medium, good"),
        (
            ("og_marl", "smac", "5m_vs_6m", "good"),
            "dataset.path=og-marl/5m_vs_6m-good or dataset.path=omiga/5m_vs_6m-good",
        ),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    asked: tuple[str, str, str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose(*asked)


def test_a_name_with_a_typo() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'madt/3m-good'.*mads4 data list"):
        find("madt/3m-god")
    assert registry.known("MADT/3m-good") and not registry.known("madt/3m-god")
