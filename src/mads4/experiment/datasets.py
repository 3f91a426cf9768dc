"""Data sets from the group `dataset`."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from mads4.config import (
    CustomDataset,
    DatasetSettings,
    FileDataset,
    GeneratedDataset,
    RecordedDataset,
)
from mads4.data import registry
from mads4.data.convert import convert
from mads4.data.dataset import Dataset
from mads4.data.files import data_directory, locked, source_key
from mads4.data.formats import Source, looks_like, open_source
from mads4.data.observation_layouts import explain_sizes
from mads4.data.on_demand import open_dataset
from mads4.envs.matrix_game import MatrixGame
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.experiment.recordings import record
from mads4.io import json_safe
from mads4.logging import progress_bar
from mads4.settings import bind_factory
from mads4.types import EnvSpec

_LOG = logging.getLogger(__name__)
_FLAGS = {
    "name": "--env",
    "scenario": "--scenario",
    "reward": "--reward",
    "state_encoding": "--state-encoding",
}
"""Environment fact that other projects' formats lack → option of `mads4 data convert`."""


def dataset(config: DatasetSettings, make_env: EnvFactory, progress: bool) -> Dataset:
    """Return the data set, recorded or converted first if need be, checked against the environment.

    Raises:
        UserError: a missing, damaged or unfitting data set.
    """
    with closing(make_env()) as env:
        if isinstance(config, GeneratedDataset):
            path = record(make_env, config, progress)
            data, source = open_dataset(path, config.in_memory), str(path)
        elif isinstance(config, FileDataset):
            path = Path(config.path).expanduser()
            _require_format(path, "file")
            data, source = open_dataset(path, config.in_memory), config.path
        elif isinstance(config, RecordedDataset):
            data, source = _recorded_dataset(config, env.spec, progress)
        else:
            assert isinstance(config, CustomDataset), "no other option has no reader"
            data, source = _custom_dataset(config), config.factory
        _require_fit(data, env, source)
    if config.episodes is not None and config.episodes < len(data):
        _LOG.info("taking the first %d of %d episodes", config.episodes, len(data))
        data = data.select(range(config.episodes))
    return data


def _recorded_dataset(
    config: RecordedDataset, spec: EnvSpec, progress: bool
) -> tuple[Dataset, str]:
    """Return a data set in another project's format, read from its conversion, and its path."""
    path, entry = _place(config, spec)
    about = {"quality": entry.quality, "dataset": entry.name} if entry else None
    source = open_source(config.name, path, spec, **config.reader_options(entry))
    return open_dataset(converted(source, about, progress), config.in_memory), str(path)


def _place(config: RecordedDataset, spec: EnvSpec) -> tuple[Path, registry.Entry | None]:
    """Return the path of the data, and their entry in the registry if they have one."""
    if config.path is not None:
        given = Path(config.path).expanduser()
        if given.exists():
            _require_format(given, config.name)
            return given, None
        if not registry.known(config.path):
            raise UserError(
                f"dataset.path: there is no file or folder {given}, nor a data set of that name "
                f"in the registry (mads4 data list).{registry.near(config.path)}"
            )
        entry = registry.find(config.path)
        if entry.format != config.name:
            raise UserError(
                f"dataset.path: {entry.name} is in the format {entry.format}, not {config.name}; "
                f"use dataset={entry.format}."
            )
    else:
        entry = registry.choose(config.name, spec.name, spec.scenario, config.quality)
    return registry.locate(entry), entry


def converted_path(source: Source) -> Path:
    """Return the file that a source's conversion is kept in.

    Its name changes with the reader's version and options, the environment's definitions, and the
    names, sizes or times of change of the source's files, none of which is read for that.
    """
    identity = {
        "origin": json_safe(source.origin),
        "spec": source.spec.to_dict(),
        "source": source_key(source.files),
    }
    text = json.dumps(identity, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]+", "_", source.name) or "data"
    return data_directory() / "converted" / f"{stem}-{key}.h5"


def converted(
    source: Source, about: Mapping[str, Any] | None = None, progress: bool = False
) -> Path:
    """Return the data set file of a source; it is converted if there is none yet.

    A lock file makes other processes wait for the first.

    Args:
        source: data of any format.
        about: further provenance for the file's header.
        progress: show a progress bar.

    Raises:
        UserError: the source is damaged, or the folder cannot be written to.
    """
    path = converted_path(source)
    with locked(path.with_name(f"{path.name}.lock"), f"converts {source.name}"):
        if path.exists():
            _LOG.info("data set %s is converted already: %s", source.name, path)
            return path
        _LOG.info("converting %s to %s", source.name, path)
        with progress_bar("converting", None, progress) as advance:
            header = convert(source, path, about=about, on_progress=advance)
    for reason, count in header.behavior["skipped"]["reasons"].items():
        _LOG.warning("%s: %d episodes were left out: %s", source.name, count, reason)
    return path


def _require_format(path: Path, kind: str) -> None:
    """Raise `UserError` when a path looks like another kind of data set."""
    found = looks_like(path) if path.exists() else None
    wanted = "file" if found == "hdf5" else found
    if wanted not in (None, kind):
        raise UserError(
            f"dataset={kind}: {path} looks like the format {found}; use dataset={wanted}."
        )


def _require_fit(data: Dataset, env: MultiAgentEnv, source: str) -> None:
    """Raise `UserError` when the data were recorded in another environment than `env`.

    Where rewards follow from the actions, they must be the environment's.
    """
    wrong = data.spec.differences(env.spec)
    if wrong:
        hints = [explain_sizes(data.spec, env.spec), _suggest_names(data.spec, env.spec)]
        if data.spec.name == env.spec.name == "rware":
            settings = [
                f"env.{key}={getattr(data.spec, key)}"
                for key in ("reward", "state_encoding")
                if getattr(data.spec, key) not in ("", getattr(env.spec, key))
            ]
            hints += [f"The data need {' '.join(settings)}."] if settings else []
        raise UserError(
            f"the data set {source} and the environment do not fit together: "
            f"{'; '.join(wrong)}. {' '.join(filter(None, hints))}".rstrip()
        )
    if isinstance(env, MatrixGame):
        _require_payoff(data, env, source)


def _suggest_names(data: EnvSpec, env: EnvSpec) -> str:
    """Return advice for data that lack some names of the environment that may have recorded them.

    A conversion does not reuse the options of an earlier one, so all are listed.
    """
    known = {name: getattr(data, name) or getattr(env, name) for name in _FLAGS}
    unknown = [name for name, value in known.items() if getattr(data, name) != value]
    if not unknown or (known["name"], known["scenario"]) != (env.name, env.scenario):
        return ""
    options = [f"{_FLAGS[name]} {shlex.quote(value)}" for name, value in known.items() if value]
    return (
        f"What recorded the data is not known ({', '.join(unknown)}). Where it was this "
        f"environment, convert them again with {' '.join(options)}."
    )


def _require_payoff(data: Dataset, game: MatrixGame, source: str) -> None:
    """Raise `UserError` when some reward differs from the game's payoff for the actions."""
    actions = data.action.astype(np.int64)
    known = (actions < game.payoff.shape).all(axis=-1)
    payoff = np.full(len(actions), np.nan)
    payoff[known] = game.rewards(actions[known])
    wrong = np.flatnonzero(~np.isclose(data.reward, payoff))
    if len(wrong):
        row = wrong[0]
        raise UserError(
            f"env.payoff: {source} was recorded in another game: joint action "
            f"{actions[row].tolist()} earned {data.reward[row]:g} there, here it earns "
            f"{payoff[row]:g}."
        )


def _custom_dataset(config: CustomDataset) -> Dataset:
    read = bind_factory("dataset.factory", config.factory, config.options, arguments=0)
    data = read(**config.options)  # an error in it is a bug: show the traceback
    if not isinstance(data, Dataset):
        raise UserError(
            f"dataset.factory: '{config.factory}' returned {type(data).__name__}, expected "
            "mads4.data.dataset.Dataset (Dataset.from_episodes makes one)."
        )
    return data
