"""OG-MARL's vaults: what is read, how open questions are decided, and what is refused."""

from __future__ import annotations

import builtins
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_fakes import SPEC, make_episode, make_episodes

from mads4.data.dataset import Dataset
from mads4.data.formats import Source, og_marl, og_marl_write, open_source
from mads4.data.formats.og_marl_write import write_og_marl
from mads4.data.formats.vault import TIME, array_spec
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode

ts = pytest.importorskip("tensorstore")

LENGTHS = (4, 2, 3)
ENV = EnvSpec("smac", "3m", 2, 3, 5, 6, 4, reward="shaped")


def experience(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """Return arrays (T, …) of episodes of which every other one is truncated."""
    rng = np.random.default_rng(0)
    steps, n = sum(lengths), ENV.n_agents
    actions = rng.integers(6, size=(steps, n))
    legals = rng.random((steps, n, 6)) < 0.5
    np.put_along_axis(legals, actions[..., None], True, axis=-1)
    terminals, truncations = np.zeros((2, steps, n), np.float32)
    for k, stop in enumerate(np.cumsum(lengths)):
        (terminals, truncations)[k % 2][stop - 1] = 1
    return {
        "observations": rng.normal(size=(steps, n, 3)).astype(np.float32),
        "actions": actions.astype(np.int32),
        "rewards": rng.normal(size=(steps, 1)).astype(np.float32).repeat(n, axis=1),
        "terminals": terminals,
        "truncations": truncations,
        "infos.legals": legals.astype(np.float32),
        "infos.state": rng.normal(size=(steps, 5)).astype(np.float32),
    }


def vault(folder: Path, arrays: dict[str, Any], uid: str = "Good", chunk: int = 3) -> Path:
    """Write arrays as they are, the way flashbax lays them out."""
    place = folder / "3m.vlt" / uid
    place.mkdir(parents=True)
    for name, array in arrays.items():
        row = array.shape[1:]
        spec = array_spec(place, f"{name}.") | {"metadata": {"chunks": [1, chunk, *row]}}
        store = ts.open(spec, dtype=array.dtype.name, shape=(1, TIME, *row), create=True).result()
        store[0, : len(array)].write(array).result()
    index = ts.open(array_spec(place, "vault_index"), dtype="int32", shape=(1,), create=True)
    index.result().write(len(arrays["observations"])).result()
    (place / "metadata.json").write_text(json.dumps({"version": 1.2}))
    return place.parent


def without(*names: str) -> dict[str, Any]:
    return {name: array for name, array in experience().items() if name not in names}


def dataset(recording: Source) -> Dataset:
    return Dataset.from_episodes(recording.spec, recording.episodes())


def open_vault(path: Path, env: EnvSpec | None = None, **options: Any) -> Source:
    return open_source("og_marl", path, env, **options)


@pytest.mark.parametrize("block", [1, 200, 1 << 25])
def test_episodes_are_cut_where_all_agents_are_done(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(og_marl, "BLOCK_BYTES", block)
    given = experience()
    recording = open_vault(vault(tmp_path, given), ENV)
    assert recording.spec == ENV
    assert recording.name == "3m-Good"
    assert recording.skipped == {}
    assert recording.files == tuple(sorted(recording.files))
    assert {"manifest.ocdbt", "metadata.json"} <= {path.name for path in recording.files}
    assert (recording.origin["format"], recording.origin["uid"]) == ("og_marl", "Good")
    assert recording.origin["team_reward"] == "copies"
    episodes = list(recording.episodes())
    assert [episode.length for episode in episodes] == list(LENGTHS)
    assert [episode.truncated for episode in episodes] == [False, True, False]
    assert [episode.terminated for episode in episodes] == [True, False, True]
    start = 0
    for k, episode in enumerate(episodes):
        rows = slice(start, start := start + episode.length)
        np.testing.assert_array_equal(episode.observation, given["observations"][rows])
        np.testing.assert_array_equal(episode.state[:, 0], given["infos.state"][rows])
        np.testing.assert_array_equal(episode.action, given["actions"][rows])
        np.testing.assert_array_equal(episode.reward, given["rewards"][rows, 0])
        np.testing.assert_array_equal(episode.available_actions, given["infos.legals"][rows])
        assert episode.seed == k
    assert len(dataset(recording)) == 3


def test_one_agent_that_is_done_ends_nothing(tmp_path: Path) -> None:
    arrays = experience()
    arrays["terminals"][0, 0] = 1  # dies early
    arrays["terminals"][3] = (1, 0)
    arrays["truncations"][3] = (0, 1)  # each agent done for its own reason
    episodes = list(open_vault(vault(tmp_path, arrays)).episodes())
    assert [episode.length for episode in episodes] == list(LENGTHS)
    assert (episodes[0].terminated, episodes[0].truncated) == (False, True)


def test_without_truncations_the_limit_tells(tmp_path: Path) -> None:
    arrays = without("truncations")
    arrays["terminals"][[3, 5, 8]] = 1
    path = vault(tmp_path, arrays)
    assert [e.truncated for e in open_vault(path).episodes()] == [True, False, False]
    patient = replace(ENV, episode_limit=60)
    assert open_vault(path, patient).spec.episode_limit == 60
    assert [e.truncated for e in open_vault(path, patient).episodes()] == [False] * 3
    assert open_vault(path, replace(ENV, episode_limit=2)).spec.episode_limit == 4


def test_what_may_be_absent(tmp_path: Path) -> None:
    path = vault(tmp_path, without("infos.legals", "infos.state"))
    recording = open_vault(path)
    assert (recording.spec.state_dim, recording.spec.state_encoding) == (6, "observations")
    assert recording.spec.n_actions == experience()["actions"].max() + 1
    assert open_vault(path, ENV).spec.n_actions == 6
    first = next(iter(recording.episodes()))
    assert first.available_actions.all()
    np.testing.assert_array_equal(first.state, first.observation.reshape(4, 1, 6))


def test_variants_of_shape_and_type(tmp_path: Path) -> None:
    arrays = experience()
    arrays["actions"] = arrays["actions"][..., None].astype(np.int64)
    arrays["terminals"] = arrays["terminals"].astype(bool)
    arrays["infos.legals"] = arrays["infos.legals"].astype(np.int32)
    arrays["infos.state"] = arrays["infos.state"][:, None].repeat(2, axis=1) > 0
    recording = open_vault(vault(tmp_path, arrays))
    assert recording.spec.state_per_agent
    data = dataset(recording)
    assert data.state.dtype == np.uint8
    np.testing.assert_array_equal(data.action, experience()["actions"])


@pytest.mark.parametrize(("rule", "expected"), [("sum", 3.0), ("mean", 1.5)])
def test_agents_that_are_paid_differently(tmp_path: Path, rule: str, expected: float) -> None:
    arrays = experience()
    arrays["rewards"][:] = 1, 1
    arrays["rewards"][1] = 1, 2
    recording = open_vault(vault(tmp_path, arrays), team_reward=rule)
    assert recording.origin["team_reward"] == rule
    assert next(iter(recording.episodes())).reward[1] == expected
    with pytest.raises(UserError, match=r"team_reward is 'men'.*Did you mean 'mean'"):
        open_vault(tmp_path / "3m.vlt", team_reward="men")


def test_an_episode_without_end_is_reported(tmp_path: Path) -> None:
    arrays = experience()
    arrays["terminals"][8] = 0
    recording = open_vault(vault(tmp_path, arrays))
    assert recording.skipped == {"steps 6 to 8": "the episode's end is not recorded"}
    assert [episode.length for episode in recording.episodes()] == [4, 2]
    arrays["terminals"][:], arrays["truncations"][:] = 0, 0
    with pytest.raises(UserError, match="no whole episode: at none of its 9 steps"):
        open_vault(vault(tmp_path / "b", arrays))


def test_a_recording_is_chosen_by_its_uid(tmp_path: Path) -> None:
    path = vault(tmp_path, experience())
    assert open_vault(path).name == "3m-Good"
    vault(tmp_path, experience((2, 2)), "Poor")
    with pytest.raises(UserError, match=r"several recordings: Good, Poor\. Choose one as uid"):
        open_vault(path)
    with pytest.raises(UserError, match=r"no recording 'Por'; it has Good, Poor.*mean 'Poor'"):
        open_vault(path, uid="Por")
    for recording in (open_vault(path, uid="POOR"), open_vault(path / "Poor")):
        assert recording.name == "3m-Poor"
        assert len(list(recording.episodes())) == 2


def drop(name: str) -> Any:
    return lambda arrays: arrays.pop(name)


def change(name: str, how: Any) -> Any:
    return lambda arrays: arrays.update({name: how(arrays[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("rewards"), r"Good is not a recording of OG-MARL: it lacks rewards"),
        (drop("terminals"), r"lacks terminals\. It has actions, infos.legals"),
        (change("actions", lambda a: a.astype("f4")), r"actions holds float32, expected integers"),
        (change("rewards", lambda a: a[:, :1]), r"rewards has shape \(9, 1\).* with n = 2"),
        (change("observations", lambda a: a[..., 0]), r"observations has .* expected \(T, n, d\)"),
        (
            change("infos.legals", lambda a: a[:3]),
            r"steps 0 to 8 cannot be read .*infos.legals.* is missing\)",
        ),
        (change("infos.legals", lambda a: a * 0), r"Episode 0 .*not among the available"),
        (change("observations", lambda a: a * np.nan), r"Episode 0 .*not finite"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    arrays = experience()
    damage(arrays)
    path = vault(tmp_path, arrays)
    with pytest.raises(UserError, match=message):
        dataset(open_vault(path))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        open_vault(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a vault of flashbax"):
        open_vault(tmp_path)
    path = vault(tmp_path, experience())
    (path / "Good" / "metadata.json").write_text('{"version": 2.0}')
    with pytest.raises(UserError, match=r"version 2.0; versions 1.x can be read"):
        open_vault(path)
    (path / "Good" / "metadata.json").write_text("[]")
    with pytest.raises(UserError, match="not the description of a vault"):
        open_vault(path)


def test_tensorstore_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vault(tmp_path, experience())
    original = builtins.__import__

    def without_tensorstore(name: str, *rest: Any) -> Any:
        if name == "tensorstore":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.delitem(sys.modules, "tensorstore")
    monkeypatch.setattr(builtins, "__import__", without_tensorstore)
    with pytest.raises(UserError, match=r"pip install 'mads4\[og_marl\]'"):
        open_vault(path)


SPECS = {
    "binary states": SPEC,
    "float states": replace(SPEC, state_encoding="float"),
    "states of agents": replace(SPEC, state_per_agent=True, state_encoding="float"),
    "a trailing axis": replace(SPEC, name="rware"),
}


def plain(episodes: list[Episode]) -> list[Episode]:
    """Leave out what a vault has no place for."""
    return [replace(episode, metrics={}) for episode in episodes]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 22])
def test_what_is_written_is_read_back(
    tmp_path: Path, spec: EnvSpec, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(og_marl_write, "CHUNK_BYTES", chunk_bytes)
    episodes = plain(make_episodes(5, spec=spec))
    written = write_og_marl(tmp_path / "walk.vlt", spec, iter(episodes), "Expert")
    assert written == tmp_path / "walk.vlt" / "Expert"
    recording = open_vault(tmp_path / "walk.vlt", spec, uid="expert")
    assert recording.spec == spec
    assert dataset(recording).fingerprint == Dataset.from_episodes(spec, episodes).fingerprint


def test_a_vault_takes_several_recordings_and_none_twice(tmp_path: Path) -> None:
    folder = tmp_path / "walk.vlt"
    for uid in ("Good", "Poor"):
        write_og_marl(folder, SPEC, make_episodes(2), uid)
    with pytest.raises(UserError, match="Poor exists already"):
        write_og_marl(folder, SPEC, make_episodes(2), "Poor")
    assert sorted(path.name for path in folder.iterdir()) == ["Good", "Poor"]


@pytest.mark.parametrize(("folder", "uid"), [("walk", "Good"), ("a.vlt", ""), ("a.vlt", "a/b")])
def test_names_that_og_marl_would_not_find(tmp_path: Path, folder: str, uid: str) -> None:
    with pytest.raises(UserError, match=r"Add \.vlt|expected a folder's name"):
        write_og_marl(tmp_path / folder, SPEC, make_episodes(1), uid)


def test_nothing_is_left_of_a_failed_export(tmp_path: Path) -> None:
    good = make_episode(np.random.default_rng(0), 5)
    bad = replace(good, reward=good.reward * np.nan)
    with pytest.raises(UserError, match="Episode 1 cannot be stored: reward has values"):
        write_og_marl(tmp_path / "walk.vlt", SPEC, [good, bad], "Good")
    with pytest.raises(UserError, match="at least one episode"):
        write_og_marl(tmp_path / "walk.vlt", SPEC, [], "Good")
    assert [path.name for path in tmp_path.rglob("*")] == ["walk.vlt"]
