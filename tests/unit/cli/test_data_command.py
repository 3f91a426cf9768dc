"""`mads4 data` from the command line: what works, and what a mistake is answered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mads4.cli.data import run
from mads4.data.formats import open_source
from mads4.data.formats.alberdice import write_alberdice
from mads4.data.registry import find
from mads4.data.store import read_dataset, read_header, write_dataset
from mads4.types import EnvSpec, Episode

Cli = Callable[..., int]
Capture = pytest.CaptureFixture[str]

SPEC = EnvSpec(
    name="toy",
    scenario="pair",
    n_agents=2,
    obs_dim=3,
    state_dim=4,
    n_actions=5,
    episode_limit=10,
    reward="steps",
)


def episode(index: int, length: int) -> Episode:
    return Episode(
        observation=np.full((length, 2, 3), index, np.float32),
        state=np.zeros((length, 1, 4), np.float32),
        available_actions=np.ones((length, 2, 5), bool),
        action=np.full((length, 2), index % 5, np.int64),
        reward=np.ones(length, np.float32),
        terminated=length < 10,
        truncated=length == 10,
        seed=index,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "toy.h5"
    write_dataset(file, SPEC, [episode(0, 4), episode(1, 10)], {"policy": "none"}, "toys")
    return file


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    file = tmp_path / "ten.h5"
    write_dataset(file, SPEC, [episode(k, k + 1) for k in range(10)], {}, "ten")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_alberdice(tmp_path / "arrays", SPEC, [episode(k, 10 - k) for k in range(4)])


def errors(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_json_has_every_fact(path: Path, cli: Cli, capsys: Capture) -> None:
    assert cli("data", "show", str(path), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    expected = {
        "name": "toys",
        "episodes": 2,
        "steps": 14,
        "n_agents": 2,
        "obs_dim": 3,
        "state_dim": 4,
        "n_actions": 5,
        "episode_limit": 10,
        "return_mean": 7.0,
        "return_std": 3.0,
        "return_min": 4.0,
        "return_max": 10.0,
        "length_mean": 7.0,
        "reward_definition": "steps",
    }
    assert {key: facts[key] for key in expected} == expected
    assert len(facts["fingerprint"]) == 64


def test_the_table_is_for_people(path: Path, cli: Cli, capsys: Capture) -> None:
    assert cli("data", "show", str(path)) == 0
    output = capsys.readouterr().out
    assert "return_mean" in output
    assert "7.000" in output
    assert "behavior.policy" in output


def test_a_folder_is_shown_without_what_it_does_not_tell(
    folder: Path, cli: Cli, capsys: Capture
) -> None:
    assert cli("data", "show", str(folder), "--json") == 0
    printed = capsys.readouterr()
    assert "detected format alberdice" in printed.err
    facts = json.loads(printed.out)
    assert facts["episodes"] == 4 and facts["return_mean"] == 8.5
    assert not {"env", "scenario", "reward_definition", "fingerprint"} & set(facts)
    words = ("--env", "toy", "--scenario", "pair", "--from", "alberdice")
    assert cli("data", "show", str(folder), "--json", *words) == 0
    assert json.loads(capsys.readouterr().out)["scenario"] == "pair"


def test_conversion_there_and_back(folder: Path, tmp_path: Path, cli: Cli, capsys: Capture) -> None:
    names = ("--env", "toy", "--scenario", "pair", "--reward", "steps")
    assert cli("data", "convert", str(folder), "new.h5", *names, "--quiet") == 0
    assert "4 episodes, 34 steps, mean return 8.500" in capsys.readouterr().out
    header = read_header(tmp_path / "new.h5")
    assert (header.spec.name, header.spec.scenario, header.spec.reward) == ("toy", "pair", "steps")
    assert header.behavior["source"]["count"] == 8
    assert header.behavior["reward_definition"] == "steps"
    assert cli("data", "verify", "new.h5", "--against", "arrays") == 0
    assert "the 8 files that it was converted from" in capsys.readouterr().out
    assert cli("data", "convert", "new.h5", "back", "--to", "alberdice") == 0
    assert cli("data", "convert", "back", "again.h5", "--state-encoding", "default", *names) == 0
    first, second = read_dataset(tmp_path / "new.h5"), read_dataset(tmp_path / "again.h5")
    np.testing.assert_array_equal(first.observation, second.observation)
    np.testing.assert_array_equal(first.table.length, second.table.length)


def test_conversion_to_a_vault(ten: Path, tmp_path: Path, cli: Cli, capsys: Capture) -> None:
    pytest.importorskip("tensorstore")
    words = ("data", "convert", str(ten), "pair.vlt", "--to", "og_marl")
    assert cli(*words, "--uid", "Expert", "--limit", "3") == 0
    assert cli("data", "show", "pair.vlt", "--uid", "expert", "--json") == 0
    facts = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert (facts["episodes"], facts["steps"]) == (3, 6)
    assert cli("data", "verify", "pair.vlt/Expert", "--quiet") == 0
    assert "sound, 3 episodes, 6 steps" in capsys.readouterr().out
    assert cli("data", "show", "pair.vlt/Expert", "--uid", "Good") == 2
    assert "is the recording Expert, but 'Good' was requested" in errors(capsys)
    copy = ("data", "convert", "pair.vlt/Expert", "copy.vlt", "--to", "og_marl")
    assert cli(*copy, "--uid", "Good") == cli("data", "verify", "copy.vlt/Good") == 0
    assert cli(*words) == 2
    assert "--uid Expert" in errors(capsys)
    assert cli(*words, "--uid", "Expert") == 2
    assert "--force" in errors(capsys)
    assert cli(*words, "--uid", "Expert", "--force") == 0
    assert len(list(open_source("og_marl", tmp_path / "pair.vlt").episodes())) == 10


def test_a_folder_that_was_to_be_replaced_survives_a_failure(
    ten: Path, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("data", "convert", str(ten), str(folder), "--to", "alberdice", "--force")
    with monkeypatch.context() as patched:
        patched.setattr("mads4.data.formats.alberdice_write._arrays", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli(*words)
    assert len(list(open_source("alberdice", folder).episodes())) == 4
    assert cli(*words) == 0
    assert len(list(open_source("alberdice", folder).episodes())) == 10
    assert {path.name for path in folder.parent.iterdir()} == {"arrays", "ten.h5"}


def test_conversion_to_madt_s_layout(ten: Path, tmp_path: Path, cli: Cli, capsys: Capture) -> None:
    words = ("convert", str(ten), "3m/good", "--to", "madt", "--quiet")
    assert cli("data", *words) == 0
    assert cli("data", *words) == 2
    assert cli("data", "convert", "3m/good", "back.h5", "--quiet") == 0
    before, after = read_dataset(ten), read_dataset(tmp_path / "back.h5")
    np.testing.assert_array_equal(before.observation, after.observation)
    np.testing.assert_array_equal(before.action, after.action)
    assert after.behavior["quality"] == "good" and after.behavior["map"] == "3m"
    capsys.readouterr()
    assert cli("data", "verify", "3m/good", "--quiet") == cli("data", "show", "3m/good") == 0
    assert "sound, 10 episodes, 55 steps" in capsys.readouterr().out


def test_the_map_of_a_folder_without_its_name_is_told(ten: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("data", "convert", str(ten), "mine/good", "--to", "madt", "--quiet") == 0
    names = ("--env", "smac", "--scenario", "3m", "--reward", "smac", "--state-encoding", "mine")
    assert cli("data", "convert", "mine/good", "back.h5", "--quiet", *names) == 0
    header = read_header(tmp_path / "back.h5")
    spec = header.spec
    assert (spec.name, spec.scenario, spec.reward) == ("smac", "3m", "smac")
    assert (spec.state_encoding, spec.episode_limit) == ("mine", 60)
    assert header.behavior["map"] == "3m"


def test_a_reader_of_one_s_own(ten: Path, tmp_path: Path, cli: Cli) -> None:
    words = ("--from", "mads4.data.formats.hdf5:open_hdf5", "--quiet")
    assert cli("data", "convert", str(ten), "new.h5", *words) == 0
    assert read_header(tmp_path / "new.h5").fingerprint == read_header(ten).fingerprint


def test_a_limit_and_a_name(ten: Path, tmp_path: Path, cli: Cli) -> None:
    words = ("data", "convert", str(ten), "less.h5", "--limit", "3", "--name", "less")
    assert cli(*words) == 0
    header = read_header(tmp_path / "less.h5")
    assert (len(header), header.name, header.behavior["limit"]) == (3, "less", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "nowhere.h5"), "no file or folder nowhere.h5, nor a data set of that name"),
        (("show", "."), "looks like none of the known formats"),
        (("show", "ten.h5", "--uid", "Good"), "--uid is for OG-MARL's vaults"),
        (("convert", "ten.h5", "toy.h5"), "toy.h5 exists. Give another name, or --force"),
        (("convert", "ten.h5", "ten.h5", "--force"), "ten.h5 is the source, or overlaps"),
        (("convert", "ten.h5", "new.h5", "--limit", "0"), "--limit: got 0"),
        (("convert", "ten.h5", "new.h5", "--from", "alberdice"), "ten.h5"),
        (("convert", "ten.h5", "new.h5", "--from", "alberdce"), "Did you mean 'alberdice'"),
        (("convert", "ten.h5", "new.h5", "--from", "no_such:reader"), "cannot import 'no_such'"),
        (("plot", "ten.h5", "toy.h5"), "toy.h5: the picture is a PNG"),
        (("plot", "ten.h5", "toy.h5/a.png"), "Cannot write toy.h5/a.png"),
        (("show", "ten.h5", "--env", "rware"), "--env: ten.h5 stores this itself"),
        (("convert", "ten.h5", "new.h5", "--from", "os:sep"), "'os' has no function 'sep'"),
        (("convert", "ten.h5", "x", "--to", "madr"), "--to: got 'madr', allowed are"),
        (("convert", "ten.h5", "3m/good", "--to", "madt", "--name", "x"), "--name: the format"),
        (("convert", "ten.h5", "x.vlt", "--to", "og_marl", "--uid", ".."), "uid is '..'"),
        (("convert", "ten.h5", "x", "--to", "og_marl", "--uid", "Good"), "named <scenario>.vlt"),
        (("merge", "ten.h5", "new.h5"), "two or more data set files"),
        (("split", "ten.h5", "a.h5", "--parts=-5"), "at least one episode, got -5"),
        (("split", "ten.h5", "a.h5", "--parts", "5", "--seed", "-1"), "seed is a whole number"),
        (("show", "madt/3m-god"), "Did you mean 'madt/3m-good'?"),
        (("convert", "madt/3m-good", "new.h5"), "not on this machine. It cannot be downloaded"),
        (("convert", "og-marl/3m-good", "new.h5"), "mads4 data download og-marl/3m-good"),
        (("convert", "ten.h5", "arrays", "--to", "alberdice"), "arrays exists"),
        (("convert", "ten.h5", ".", "--to", "alberdice", "--force"), "is the source, or overlaps"),
        (("convert", "ten.h5", "other", "--to", "alberdice", "--force"), "left alone"),
        (("merge", "ten.h5", "arrays", "new.h5"), "mads4 data convert arrays"),
        (("merge", "ten.h5", "ten.h5", "new.h5"), "hold the same episodes"),
        (("merge", "ten.h5", "toy.h5", "ten.h5", "--force"), "is the source, or overlaps"),
        (("split", "ten.h5", "a.h5", "--parts", "0.9,0.1"), "2 sizes (0.9,0.1) for 1 files"),
        (("split", "ten.h5", "a.h5", "b.h5", "--parts", "9,x"), "got '9,x'"),
        (("split", "ten.h5", "a.h5", "a.h5", "--parts", "5,5"), "one file"),
        (("split", "ten.h5", "a.h5", "b.h5", "--parts", "5,6"), "want 11 episodes"),
        (("filter", "ten.h5", "new.h5"), "--pct-traj"),
        (("filter", "ten.h5", "new.h5", "--min-return", "99"), "returns go from 1 to 10"),
        (("filter", "ten.h5", "new.h5", "--best", "7"), "share in (0, 1]"),
        (("verify", "ten.h5", "--against", "."), "does not say what files"),
        (("download", "madt/3m-god"), "Did you mean 'madt/3m-good'"),
        (("download", "madt/3m-good"), "put the folder at"),
        (("list", "--env", "chess"), "No data set matches these filters"),
        (("plot", "nowhere"), "no file or folder nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line_and_change_nothing(
    words: tuple[str, ...],
    message: str,
    cli: Cli,
    capsys: Capture,
    path: Path,
    ten: Path,
    folder: Path,
) -> None:
    (path.parent / "other").mkdir()
    there = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    assert cli("data", *words) == 2
    told = errors(capsys)
    assert message in told and "Traceback" not in told
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == there


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(28, "No space left on device", "new.h5"), 2, "error: new.h5: No space left"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_what_the_system_refuses_is_told(
    error: OSError, code: int, told: str, ten: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise error

    said: list[str] = []
    monkeypatch.setattr("mads4.cli.data_show.show", refused)
    monkeypatch.setattr("os.dup2", lambda *_: 0)
    monkeypatch.setattr("sys.stderr.write", said.append)
    assert cli("data", "show", str(ten)) == code
    assert "".join(said).startswith(told)


def test_impossible_values_are_told_with_their_place(
    folder: Path, cli: Cli, capsys: Capture
) -> None:
    actions = np.load(folder / "actions.npy")
    actions[2, 0, 0] = 99
    np.save(folder / "actions.npy", actions)
    for words in (("show",), ("verify",), ("plot",)):
        assert cli("data", *words, str(folder)) == 2
        assert "arrays: Episode 2 cannot be stored: action has values" in errors(capsys)
    assert cli("data", "convert", str(folder), "new.h5") == 2
    assert "arrays: Episode 2 cannot be stored: action has values" in errors(capsys)


def test_what_a_killed_process_put_aside_is_in_nobodys_way(
    ten: Path, folder: Path, cli: Cli
) -> None:
    aside = folder.with_name(".arrays.replaced")
    folder.rename(aside)
    for force in ((), ("--force",)):
        assert cli("data", "convert", str(ten), str(folder), "--to", "alberdice", *force) == 0
    assert not aside.exists()


def test_of_two_who_write_to_one_place_one_is_refused(ten: Path, tmp_path: Path) -> None:
    words = ["convert", str(ten), str(tmp_path / "one.h5"), "--quiet"]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run, "data", words) for _ in range(2)]
    failures = [job.exception() for job in jobs if job.exception()]
    assert len(failures) == 1 and "one.h5 exists" in str(failures[0])
    assert len(read_header(tmp_path / "one.h5")) == 10
    assert {path.name for path in tmp_path.iterdir()} == {"ten.h5", "one.h5"}


def test_a_folder_of_episodes_is_not_written_into(ten: Path, cli: Cli, capsys: Capture) -> None:
    assert cli("data", "convert", str(ten), "3m/good", "--to", "madt") == 0
    assert cli("data", "convert", "3m/good", "3m/good/all.h5") == 2
    assert "counts as an episode" in errors(capsys)


def test_damage_is_found(ten: Path, folder: Path, cli: Cli, capsys: Capture) -> None:
    assert cli("data", "verify", str(ten), "--quiet") == 0
    assert "sound, 10 episodes, 55 steps" in capsys.readouterr().out
    content = bytearray(ten.read_bytes())
    content[len(content) // 2] ^= 255
    ten.write_bytes(content)
    assert cli("data", "verify", str(ten), "--quiet") == 2
    assert "ten.h5 is damaged" in errors(capsys)
    assert cli("data", "convert", str(folder), "new.h5", "--quiet") == 0
    assert cli("data", "verify", "new.h5", "--against", "nowhere") == 2
    assert "--against: there is no file or folder nowhere" in errors(capsys)
    (folder / "reward.npy").write_bytes((folder / "terminated.npy").read_bytes())
    assert cli("data", "verify", "new.h5", "--against", str(folder)) == 2
    assert "reward.npy changed" in errors(capsys)
    assert cli("data", "verify", str(folder)) == 2
    assert "reward.npy" in errors(capsys)


def test_merging_splitting_and_filtering(ten: Path, tmp_path: Path, cli: Cli) -> None:
    words = ("split", "ten.h5", "a.h5", "b.h5", "--parts", "0.7,0.3", "--seed", "4", "--quiet")
    assert cli("data", *words) == 0
    assert cli("data", "merge", "b.h5", "a.h5", "all.h5") == 0
    header = read_header(tmp_path / "all.h5")
    assert sorted(header.returns) == list(range(1, 11))
    parts = [read_header(tmp_path / name) for name in ("b.h5", "a.h5")]
    assert [p["fingerprint"] for p in header.behavior["parents"]] == [
        part.fingerprint for part in parts
    ]
    assert [len(part) for part in parts] == [3, 7]
    words = ("--min-length", "3", "--max-return", "8", "--best", "0.5")
    assert cli("data", "filter", "all.h5", "best.h5", *words) == 0
    assert sorted(read_header(tmp_path / "best.h5").returns) == [6, 7, 8]


def test_the_list(path: Path, cli: Cli, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path.rename(tmp_path / "data" / "mine.h5")
    assert cli("data", "list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    mine = rows[str(tmp_path / "data" / "mine.h5")]
    assert mine["here"] and mine["source"] == "recorded" and mine["episodes"] == 2
    good = rows["og-marl/3m-good"]
    assert not good["here"] and good["source"] == "huggingface.co"
    assert good["return_mean"] == 16.49 and good["bytes"] is None
    assert cli("data", "list", "--here") == 0
    assert "mine.h5" in capsys.readouterr().out
    assert cli("data", "list", "--env", "SMAC", "--scenario", "corridor", "--format", "madt") == 0
    output = capsys.readouterr().out
    assert "by hand" in output and "unknown" in output and output.count("madt/corridor") == 3


def test_a_registry_name_stands_for_its_folder(
    cli: Cli, capsys: Capture, tmp_path: Path, folder: Path
) -> None:
    entry = find("alberdice-matrix/2x2-buffer_02")
    entry.place.parent.mkdir(parents=True)
    folder.rename(entry.place)
    assert cli("data", "download", entry.name) == 0
    assert f"is at {entry.place}" in capsys.readouterr().out
    assert cli("data", "convert", entry.name, "new.h5") == 0
    header = read_header(tmp_path / "new.h5")
    assert (header.spec.name, header.spec.scenario) == ("matrix_game", "2x2")
    assert header.spec.reward == "payoff-e2c7c54a"
    assert header.behavior["dataset"] == entry.name
    assert header.behavior["quality"] == "buffer_02"
    assert cli("data", "verify", entry.name) == 0


def test_a_picture(ten: Path, folder: Path, cli: Cli, capsys: Capture, tmp_path: Path) -> None:
    assert cli("data", "plot", str(ten), "look.png") == 0
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    assert cli("data", "plot", str(folder), "--quiet") == 0
    assert (tmp_path / "arrays.png").stat().st_size > 10_000
    assert "picture: arrays.png" in capsys.readouterr().out
