"""`mads4 doctor` reports what is installed, what is missing and why, and wrong results."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from game_folder import install_game
from mads4.cli import doctor, doctor_text
from mads4.kernels.backends import choice
from mads4.kernels.backends.torch_backend import SplitPowers, TorchBackend

Cli = Callable[..., int]
Output = pytest.CaptureFixture[str]

OPERATIONS = (
    "Vandermonde product",
    "Vandermonde transpose",
    "diagonal kernel",
    "DPLR kernel",
)
REASON = "it needs a compiler, and there is none"


class FakePowers(SplitPowers):
    """Right in products, wrong in transposed ones."""

    def transposed(self, values: torch.Tensor) -> torch.Tensor:
        sys.stdout.write("[fake] Compiling ...\n")
        return 1.001 * super().transposed(values)


class Fake(TorchBackend):
    """A backend with wrong gradients."""

    name = "keops"

    def powers(self, base: torch.Tensor, length: int, sequences: int = 1) -> FakePowers:
        powers = super().powers(base, length, sequences)
        return FakePowers(powers.outer, powers.inner, powers.length)


class Backends:
    """Replaces the two optional backends: neither can run until a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        for name in ("keops", "cuda"):
            self.provide(name, Fake(), lambda device: REASON)

    def provide(self, name: str, backend: Any, reason: Callable[[Any], str | None]) -> None:
        module = ModuleType(f"mads4.kernels.backends.{name}_backend")
        module.BACKEND, module.reason_against = backend, reason  # type: ignore[attr-defined]
        module.AUTO_RANK = {}  # type: ignore[attr-defined]
        self._monkeypatch.setitem(sys.modules, module.__name__, module)
        choice._REASONS.clear()
        choice._CHOICES.clear()


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backends]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("COLUMNS", "300")
    yield Backends(monkeypatch)
    choice._REASONS.clear()
    choice._CHOICES.clear()


def facts(cli: Cli, capsys: Output, *words: str, code: int = 0) -> dict[str, Any]:
    assert cli("doctor", "--json", *words) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_healthy_machine(cli: Cli, capsys: Output) -> None:
    assert cli("doctor") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "nothing is missing, and the kernels compute right: torch on cpu" in lines[-1]
    assert f"  rware        {importlib.metadata.version('rware')}" in lines
    assert "  torch  available" in lines
    assert f"  keops  not available: {REASON}" in lines
    assert any(line.startswith("  auto   takes torch: first that runs on cpu") for line in lines)
    assert sum(line.endswith("  ok") for line in lines) == 8
    assert captured.err == ""


def test_json_holds_the_same_facts(cli: Cli, capsys: Output, tmp_path: Path) -> None:
    found = facts(cli, capsys)
    assert found["ok"] is True and found["problems"] == []
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["packages"]["torch"]["version"] == importlib.metadata.version("torch")
    assert set(found["optional"]) == {"pykeops", "triton", "jaxmarl", "jax"}
    assert found["machine"]["torch_threads"] == torch.get_num_threads()
    assert set(found) >= {"compiler", "cuda", "caches", "kernels", "selftest", "notes"}
    (cpu,) = found["kernels"]
    assert cpu["against"] == {"torch": None, "keops": REASON, "cuda": REASON}
    assert cpu["auto"]["backend"] == "torch"
    assert found["caches"][0] == {
        "what": "data sets",
        "variable": "MADS4_DATA_DIR",
        "path": str(tmp_path / "data"),
        "against": None,
    }
    assert {row["dtype"] for row in found["selftest"]} == {"float32", "float64"}
    assert all(row["passed"] and row["value_error"] < 1e-4 for row in found["selftest"])


def test_the_self_test_can_be_left_out(cli: Cli, capsys: Output) -> None:
    assert facts(cli, capsys, "--no-selftest")["selftest"] is None
    assert cli("doctor", "--no-selftest") == 0
    output = capsys.readouterr().out
    assert "the self-test was left out" in output
    assert "DPLR" not in output


def test_a_backend_with_wrong_gradients_is_found(
    cli: Cli, capsys: Output, backends: Backends
) -> None:
    backends.provide("keops", Fake(), lambda device: None)
    found = facts(cli, capsys, code=1)  # what the backend prints is not in the way
    assert found["kernels"][0]["against"]["keops"] is None
    wrong = {(r["backend"], r["operation"]) for r in found["selftest"] if not r["passed"]}
    assert wrong == {("keops", operation) for operation in OPERATIONS}
    names = [
        f"{operation} in {dtype}" for dtype in ("float64", "float32") for operation in OPERATIONS
    ]
    assert found["problems"] == [
        f"the keops backend gives wrong results on cpu: {', '.join(names)}. "
        "Select another one with kernel=<name>."
    ]
    assert cli("doctor") == 1
    output = capsys.readouterr().out
    assert output.count("WRONG") == 8
    assert " ".join(output.split()).endswith(found["problems"][0])


def test_a_backend_that_raises_is_found(cli: Cli, capsys: Output, backends: Backends) -> None:
    backend = Fake()
    backend.powers = lambda *given: 1 / 0  # type: ignore[assignment,return-value]
    backends.provide("keops", backend, lambda device: None)
    found = facts(cli, capsys, code=1)
    rows = [row for row in found["selftest"] if row["backend"] == "keops"]
    assert rows[0]["failure"] == "ZeroDivisionError: division by zero"
    assert rows[0]["value_error"] is None
    assert "division by zero" in found["problems"][0]


def test_a_probe_that_breaks_is_a_reason(cli: Cli, capsys: Output, backends: Backends) -> None:
    backends.provide("keops", Fake(), lambda device: 1 / 0)  # type: ignore[arg-type,return-value]
    assert cli("doctor", "--no-selftest") == 0
    expected = "  keops  not available: its probe failed: ZeroDivisionError: division by zero"
    assert expected in capsys.readouterr().out.splitlines()


def test_a_slow_backend_is_explained(
    cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mads4.cli.doctor.SLOW_MILLISECONDS", 0.0)
    assert "it is compiled at first use" in facts(cli, capsys)["notes"][0]


def test_a_missing_and_an_old_package(
    cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"h5py": None, "pandas": "1.5.3", "pykeops": None}
    installed = doctor.version
    monkeypatch.setattr(
        doctor,
        "version",
        lambda name: versions[name] if name in versions else installed(name),
    )
    found = facts(cli, capsys, "--no-selftest", code=1)
    assert found["problems"] == [
        "pandas 1.5.3 does not fit: pip install 'pandas>=2.0'",
        "h5py is missing: pip install 'h5py>=3.10'",
    ]
    assert [place["what"] for place in found["caches"] if place["what"] == "KeOps"] == []
    assert cli("doctor", "--no-selftest") == 1
    output = capsys.readouterr().out
    assert "  h5py         MISSING: h5py is missing" in output
    assert "  pykeops      not installed (needed by kernel=keops" in output


@pytest.mark.parametrize("packages", [["torch"], ["torch", "numpy", "pydantic", "filelock"]])
def test_without_torch_the_rest_is_reported(packages: list[str], tmp_path: Path) -> None:
    script = (
        f"import sys; sys.modules |= dict.fromkeys({packages}); from mads4.cli import main;"
        "sys.exit(main(['doctor'] + sys.argv[1:]))"
    )
    for words in ([], ["--json"]):
        result = subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1, result.stderr
        assert "PyTorch cannot be imported" in result.stdout
        assert result.stderr == ""
    assert json.loads(result.stdout)["kernels"] == []


def test_a_folder_that_cannot_be_written_is_a_note(
    cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "file" / "data"))
    found = facts(cli, capsys, "--no-selftest")
    assert found["caches"][0]["against"] == f"{tmp_path / 'file'} is not a folder"
    assert "Set MADS4_DATA_DIR to another folder." in found["notes"][0]
    assert cli("doctor", "--no-selftest") == 0
    assert "NOT WRITABLE" in " ".join(
        capsys.readouterr().out.split()
    )  # text may be wrapped anywhere


def test_an_unusable_home_is_survived(
    cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MADS4_DATA_DIR", "XDG_CACHE_HOME", "KEOPS_CACHE_FOLDER", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    found = facts(cli, capsys, "--no-selftest")
    assert {place["against"] for place in found["caches"]} == {"/dev/null is not a folder"}


def test_variables_move_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    monkeypatch.setenv("KEOPS_CACHE_FOLDER", "/a/keops")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_HOME", "/a")
    paths = {place["what"]: place["path"] for place in doctor.caches()}
    assert paths["KeOps"] == "/a/keops"
    assert paths["Triton"] == "/a/.triton/cache"


def test_no_compiler_is_reported(cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert facts(cli, capsys, "--no-selftest")["compiler"] is None
    assert cli("doctor", "--no-selftest") == 0
    assert "C++ compiler  none found; kernel=keops needs one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "needed", "fits"),
    [
        ("2.13.0+cpu", ">=2.4", True),
        ("2.3.1", ">=2.4", False),
        ("1.3.8", ">=1.3,<1.4", True),
        ("1.4.0", ">=1.3,<1.4", False),
        ("1.3", "<1.4,>=1.3.0", True),
        ("77", "", True),
    ],
)
def test_bounds_of_versions(
    found: str, needed: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [f"some{needed}", "other>=9; extra == 'dev'", "third; python_version < '3'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: entries)
    monkeypatch.setattr(doctor, "version", lambda name: found)
    packages = doctor.required_packages()
    assert set(packages) == {"some"}
    assert (packages["some"]["problem"] is None) is fits


@pytest.mark.parametrize("width", [20, 48, 60, 80, 200])
def test_text_fits_the_terminal(cli: Cli, capsys: Output, width: int) -> None:
    found = facts(cli, capsys)
    found["machine"]["platform"] = found["caches"][0]["path"] = "short"
    for part in found["starcraft"]:
        part["found"] = "short"
    found["notes"] = found["problems"] = [25 * "words to be folded "]
    lines = doctor_text.report(found, width).splitlines()
    assert max(map(len, lines)) <= max(width, 48)
    assert any("gradients" in line for line in lines) is (width > 60)


def test_starcraft_is_reported_but_optional(
    cli: Cli, capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    install_game(maps=["3m"])
    assert cli("doctor", "--json", "--no-selftest") == 0
    parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)["starcraft"]}
    assert parts["env=smac: StarCraft II"]["found"] == f"build 75689 in {tmp_path}"
    assert "22 of SMAC's 23 maps" in parts["env=smac: maps"]["problem"]
    assert "SMAC_Maps.zip" in parts["env=smac: maps"]["problem"]
    assert {"env=smac: package smac", "env=smaclite: smaclite"} < set(parts)
    assert cli("doctor", "--no-selftest") == 0
    assert "build 75689" in capsys.readouterr().out
