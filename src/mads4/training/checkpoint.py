"""Checkpoints: written atomically, and read without running code from the file.

A checkpoint is a PyTorch zip archive of one dictionary ``{"format", "schema", "payload"}`` whose
payload consists of plain containers, plain values and tensors, so that
``torch.load(weights_only=True)`` reads it. Beyond weights and optimizer, resuming exactly needs a
`TrainState` and the random streams.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from mads4.errors import UserError
from mads4.io import atomic_path

FORMAT = "mads4-checkpoint"
SCHEMA = 2
FOLDER = "checkpoints"

Which = Literal["best", "last"]

_PLAIN = (str, bytes, bool, int, float, type(None))
_ZIP_START = b"PK\x03\x04"


def save(path: Path, payload: Mapping[str, Any]) -> None:
    """Write `payload` to `path`; a crash at any moment leaves the old file or the new one.

    Raises:
        TypeError: when the payload holds something that `load` would refuse, named by its keys.
    """
    _require_plain(dict(payload), "payload")
    with atomic_path(path) as beside:
        torch.save({"format": FORMAT, "schema": SCHEMA, "payload": dict(payload)}, beside)


def load(path: Path) -> dict[str, Any]:
    """Return the payload that `save` wrote, with all tensors in main memory.

    Raises:
        UserError: when the file is missing, damaged, not a checkpoint or of a newer schema.
    """
    _require_sound_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects other than tensors and plain containers, so reading it "
            "could run foreign code. Use a checkpoint written by `mads4 train`."
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise _foreign(path) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _foreign(path)
    if content["schema"] != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content['schema']}; this version of mads4 reads "
            f"schema {SCHEMA}. Install the version that wrote it, or train again."
        )
    payload: dict[str, Any] = content["payload"]
    return payload


def find(path: Path, which: Which = "best") -> Path:
    """Return the checkpoint file that `path`, a checkpoint file or a run directory, stands for.

    A run directory's ``best`` falls back on ``last`` (a run that has not validated yet);
    ``last`` has no substitute, because a run resumed from elsewhere would not be the same run.

    Raises:
        UserError: when there is no such checkpoint, listing those that exist.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(
            f"There is no {path}. Give a run directory (with {FOLDER}/ in it) or a .pt file."
        )
    folder = path if path.name == FOLDER else path / FOLDER
    names = ("best.pt", "last.pt") if which == "best" else ("last.pt",)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{path} has no {' or '.join(names)} in {FOLDER}/. {_what_exists(path)}")


@dataclass
class TrainState:
    """Progress of a training. Batches are a function of (seed, step), so no sampler is stored."""

    step: int = 0
    """Optimizer steps taken."""
    best_step: int = 0
    """Step of the best weights so far; 0 before the first validation."""
    best_criterion: float = float("inf")
    """Their criterion, lower is better: offline the validation loss, in nats per agent-step;
    online minus the return of the training episodes."""
    seconds: float = 0.0
    """Wall-clock time spent on the steps taken, over all processes of the run."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainState:
        """Restore what `to_dict` returned.

        Raises:
            UserError: another version of mads4 wrote it.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise UserError(
                "The run was begun by another version of mads4. Go on with that version, or start "
                "a new run (in a new directory, with init_from=<this run> to keep the weights)."
            )
        return cls(**values)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return PyTorch's random streams (dropout draws from them)."""
    streams: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        streams["cuda"] = torch.cuda.get_rng_state(device)
    return streams


def restore_random_state(streams: Mapping[str, Any], device: torch.device) -> None:
    """Set PyTorch's random streams to what `random_state` returned."""
    torch.set_rng_state(streams["cpu"])
    if device.type == "cuda" and "cuda" in streams:
        torch.cuda.set_rng_state(streams["cuda"], device)


def _what_exists(path: Path) -> str:
    """Say which checkpoints lie below `path`, for the user to choose from."""
    there = sorted(path.glob("*.pt")) + sorted(path.glob(f"{FOLDER}/*.pt"))
    there += sorted(path.glob(f"*/{FOLDER}/*.pt"))
    if not there:
        return "No checkpoint lies there: was the run stopped before its first one?"
    shown = ", ".join(str(item) for item in there[-8:])
    return f"Give one of the {len(there)} that exist: {shown}."


def _require_sound_archive(path: Path) -> None:
    """Raise `UserError` unless `path` is a complete zip archive, as every checkpoint is."""
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a checkpoint. {_what_exists(path)}")
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}. {_what_exists(path.parent)}")
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    if start == b"":
        raise UserError(f"{path} is empty. Use another checkpoint of the run.")
    if start != _ZIP_START:
        raise _foreign(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} is truncated or damaged ({path.stat().st_size} bytes). "
            "Copy it again or use another checkpoint of the run."
        ) from error
    if damaged is not None:
        raise UserError(
            f"{path} is damaged: {damaged} does not match its checksum. "
            "Copy it again or use another checkpoint of the run."
        )


def _foreign(path: Path) -> UserError:
    """Return the error for a file that something else wrote."""
    return UserError(
        f"{path} is not a MADS4 checkpoint. Give one written by `mads4 train`, "
        f"for example <run directory>/{FOLDER}/best.pt."
    )


def _require_plain(value: Any, where: str) -> None:
    """Raise `TypeError` naming the first thing in `value` that a safe load would refuse."""
    if type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif type(value) in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r}; only str and int keys are stored.")
            _require_plain(item, f"{where}[{key!r}]")
    elif not (type(value) in _PLAIN or isinstance(value, torch.Tensor)):
        raise TypeError(
            f"{where} is a {type(value).__name__}; a checkpoint holds only tensors, str, bytes, "
            "bool, int, float, None and dict, list, tuple of them."
        )
