"""Merging, splitting and filtering: nothing lost, nothing twice, and the parents named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episodes

from mads4.data import edit
from mads4.data.convert import convert
from mads4.data.dataset import EpisodeTable
from mads4.data.store import read_dataset, write_dataset
from mads4.errors import UserError


def stored(path: Path, count: int, seed: int, **change: object) -> edit.Stored:
    spec = replace(SPEC, **change)  # type: ignore[arg-type]
    episodes = make_episodes(count, seed, spec)
    write_dataset(path, spec, episodes, {"name": "walk", "quality": "good"})
    return edit.open_stored(path)


def table(returns: list[float], lengths: list[int]) -> EpisodeTable:
    count = len(returns)
    return EpisodeTable(
        length=np.array(lengths),
        episode_return=np.array(returns),
        terminated=np.ones(count, bool),
        truncated=np.zeros(count, bool),
        seed=np.arange(count),
        metrics={},
        last_row=np.full(count, -1),
    )


def test_a_merged_set_has_all_episodes_and_names_its_parents(tmp_path: Path) -> None:
    parents = [stored(tmp_path / "a.h5", 4, 0), stored(tmp_path / "b.h5", 3, 1)]
    merged = edit.merge(parents)
    assert len(merged) == 7
    header = convert(merged, tmp_path / "c.h5")
    both = np.concatenate([parent.header.returns for parent in parents])
    assert header.table.last_row.tolist() == [-1, 0, 1, -1, -1, 2, 3]
    parts = [read_dataset(tmp_path / name) for name in ("a.h5", "b.h5")]
    ends = np.concatenate([part.last["last_observation"] for part in parts])
    np.testing.assert_array_equal(read_dataset(tmp_path / "c.h5").last["last_observation"], ends)
    np.testing.assert_array_equal(header.returns, both)
    origin = header.behavior
    assert [p["fingerprint"] for p in origin["parents"]] == [p.header.fingerprint for p in parents]
    assert [row["name"] for row in origin["source"]["files"]] == ["a.h5", "b.h5"]
    assert origin["operation"] == {"name": "merge"}
    assert origin["quality"] == "good"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": "other"}, "a.h5 and .*b.h5 cannot be merged: reward: 'steps' against 'other'"),
        ({"scenario": "far"}, "scenario: 'walk' against 'far'.*--scenario"),
    ],
)
def test_what_differs_is_not_merged(tmp_path: Path, change: dict[str, str], message: str) -> None:
    parents = [stored(tmp_path / "a.h5", 2, 0), stored(tmp_path / "b.h5", 2, 1, **change)]
    with pytest.raises(UserError, match=message):
        edit.merge(parents)


def test_nothing_is_merged_with_itself(tmp_path: Path) -> None:
    one = stored(tmp_path / "a.h5", 2, 0)
    with pytest.raises(UserError, match="hold the same episodes"):
        edit.merge([one, edit.open_stored(tmp_path / "a.h5")])


def test_a_folder_is_converted_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mads4 data convert"):
        edit.open_stored(tmp_path)


def test_kept_episodes_are_the_parent_s(tmp_path: Path) -> None:
    parent = stored(tmp_path / "a.h5", 9, 0)
    kept = edit.keep(parent, np.array([7, 2]), {"name": "filter", "best": 0.2})
    header = convert(kept, tmp_path / "b.h5", name="b")
    whole, part = read_dataset(tmp_path / "a.h5"), read_dataset(tmp_path / "b.h5")
    for new, old in enumerate((2, 7)):
        np.testing.assert_array_equal(part.episode(new).observation, whole.episode(old).observation)
    assert header.behavior["operation"] == {"name": "filter", "best": 0.2}
    with pytest.raises(UserError, match=r"No episode of .*a.h5 is left \(name=filter\)"):
        edit.keep(parent, np.array([], int), {"name": "filter", "best": None})


@given(
    count=st.integers(2, 60), share=st.floats(0.05, 0.9), rest=st.booleans(), seed=st.integers(0, 9)
)
@settings(max_examples=60, deadline=None)
def test_parts_are_disjoint_and_complete(count: int, share: float, rest: bool, seed: int) -> None:
    parts = [share, 1 - share] if rest else [share]
    if round(share * count) in (0, count):
        return
    found = edit.divided(count, parts, seed)
    together = np.concatenate(found)
    assert len(set(together)) == len(together)
    assert len(together) == (count if rest else round(share * count))
    assert all((np.diff(part) > 0).all() for part in found)
    again = edit.divided(count, parts, seed)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize(
    ("parts", "message"),
    [([3, 4], "want 7 episodes"), ([1.5], "between 0 and 1"), ([0.01, 0.99], "would be empty")],
)
def test_impossible_parts(parts: list[float | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        edit.divided(5, parts, 0)


def test_numbers_of_episodes() -> None:
    assert [len(part) for part in edit.divided(10, [7, 2], 0)] == [7, 2]


def test_bounds_are_inclusive() -> None:
    facts = table([1, 2, 3, 4], [10, 20, 30, 40])
    assert edit.chosen(facts, min_return=2, max_return=3).tolist() == [1, 2]
    assert edit.chosen(facts, min_length=20, max_length=20).tolist() == [1]
    assert edit.chosen(facts, min_return=5).tolist() == []
    assert edit.chosen(facts, min_return=2, best=0.34).tolist() == [3]


def test_pct_traj_is_a_share_of_the_steps() -> None:
    """The best episodes while they fit into the share; the best one in any case."""
    facts = table([5, 1, 4, 3], [10, 50, 20, 20])
    assert edit.chosen(facts, pct_traj=0.3).tolist() == [0, 2]
    assert edit.chosen(facts, pct_traj=0.49).tolist() == [0, 2]
    assert edit.chosen(facts, pct_traj=0.5).tolist() == [0, 2, 3]
    assert edit.chosen(facts, pct_traj=0.01).tolist() == [0]
    assert edit.chosen(facts, pct_traj=1.0).tolist() == [0, 1, 2, 3]


@given(
    episodes=st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 9)), min_size=1, max_size=30),
    share=st.floats(0.01, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_the_best_are_never_worse_than_the_rest(
    episodes: list[tuple[int, int]], share: float
) -> None:
    facts = table([float(r) for r, _ in episodes], [n for _, n in episodes])
    for kept in (edit.chosen(facts, best=share), edit.chosen(facts, pct_traj=share)):
        rest = np.setdiff1d(np.arange(len(episodes)), kept)
        assert len(kept) >= 1
        if len(rest):
            assert facts.episode_return[kept].min() >= facts.episode_return[rest].max()


@pytest.mark.parametrize("share", [0.0, 1.1, -0.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match=r"share in \(0, 1\]"):
        edit.chosen(table([1], [1]), best=share)
