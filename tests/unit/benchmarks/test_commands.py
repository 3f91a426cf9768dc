from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from harness.rows import COLUMNS

Command = Callable[..., int]
SCRIPTS = Path(__file__).parents[3] / "benchmarks"
QUICK = ("--quick", "--threads", "1", "--device", "cpu")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_script_fits_the_package(script: str) -> None:
    assert importlib.import_module(script).__doc__


def test_kernels_from_end_to_end(
    bench: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--backends", "torch,reference", "--lengths", "9,30", "--out", "somewhere/figures")
    assert bench("kernels", "kernels", *QUICK, *words, "--parameterizations", "dplr") == 0
    rows = read(tmp_path / "somewhere" / "figures.csv")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 4
    for row in rows:
        assert 0.0 < float(row["forward_ms_min"]) <= float(row["forward_ms"])
        assert float(row["forward_backward_ms"]) > 0.0
        assert float(row["control_gflops"]) > 0.0
        assert float(row["forward_times_faster"]) > 0.0
    assert {row["length"] for row in rows} == {"9", "30"}

    header = json.loads((tmp_path / "somewhere" / "figures.json").read_text(encoding="utf-8"))
    assert header["threads"] == 1
    assert header["control"]["gflops"] > 0.0
    assert header["versions"]["torch"]
    with Image.open(tmp_path / "somewhere" / "figures.png") as picture:
        assert picture.size[0] > picture.size[1] > 300

    output = capsys.readouterr().out
    assert output.count("\nkernel ") == 4
    assert "GFLOP/s" in output
    assert "figures.png" in output


def test_the_share_of_a_block_is_reported(bench: Command, tmp_path: Path) -> None:
    words = ("--backends", "torch", "--lengths", "20", "--parameterizations", "diagonal")
    assert bench("kernels", "layer", *QUICK, *words) == 0
    layer, block = read(tmp_path / "outputs" / "bench" / "layer.csv")
    assert layer["fft_and_product_share"] == ""
    assert 0.0 < float(block["fft_and_product_share"]) < 1.0
    header = json.loads((tmp_path / "outputs" / "bench" / "layer.json").read_text("utf-8"))
    assert header["profiles"][0]["operators"]


def test_steps_have_one_time(bench: Command, tmp_path: Path) -> None:
    assert bench("kernels", "step", *QUICK, "--parameterizations", "dplr", "--batch", "3") == 0
    rows = read(tmp_path / "outputs" / "bench" / "step.csv")
    assert {row["case"] for row in rows} == {"step layer", "step stack"}
    assert {row["forward_backward_ms"] for row in rows} == {""}


def test_a_backend_that_cannot_run_is_listed_with_its_reason(
    bench: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "harness.suite.reason_against",
        lambda name, device: "it is on strike" if name == "cuda" else None,
    )
    words = ("--parameterizations", "diagonal", "--lengths", "9")
    assert bench("kernels", "kernels", *QUICK, *words, "--backends", "cuda,torch") == 0
    assert "cuda: cannot run here: it is on strike" in capsys.readouterr().out
    rows = {row["backend"]: row for row in read(tmp_path / "outputs" / "bench" / "kernels.csv")}
    assert "on strike" in rows["cuda"]["note"]
    assert rows["torch"]["forward_ms"]

    assert bench("kernels", "kernels", *QUICK, *words, "--backends", "cuda") == 2
    captured = capsys.readouterr()
    assert "on strike" in captured.out + captured.err
    assert "none of them can run" in captured.err


def test_plain_formulas_that_need_too_much_are_left_out(bench: Command, tmp_path: Path) -> None:
    words = ("--backends", "reference", "--lengths", "900000", "--reference-memory", "10")
    assert bench("kernels", "kernels", *QUICK, *words) == 0
    for row in read(tmp_path / "outputs" / "bench" / "kernels.csv"):
        assert not row["forward_ms"]
        assert "left out" in row["note"]
    assert not (tmp_path / "outputs" / "bench" / "kernels.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("kernels", "--lengths", "abc"), "'abc' is not a whole number"),
        (("kernels", "--lengths", "0"), "the minimum is 1"),
        (("kernels", "--backends", "troch"), "Did you mean 'torch'?"),
        (("step", "--backends", "keops"), "there is no 'keops'"),
        (("kernels", "--state", "7"), "7 is odd"),
        (("kernels", "--parameterizations", "dense"), "allowed: diagonal, dplr"),
        (("kernels", "--device", "abacus"), "allowed are auto, cpu, cuda"),
        (("kernels", "--device", "cuda:99"), "CUDA devices"),
        (("kernels", "--max-seconds", "long"), "not a number of seconds"),
        (("nothing",), "invalid choice"),
        ((), "benchmark"),
    ],
)
def test_mistakes_are_explained(
    bench: Command, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert bench("kernels", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_place_that_cannot_be_written_is_refused_before_measuring(
    bench: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert bench("kernels", "kernels", *QUICK, "--out", "file/figures") == 2
    captured = capsys.readouterr()
    assert "file/figures" in captured.err
    assert not captured.out
