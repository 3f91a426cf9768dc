"""Data sets from the group `dataset`."""

from __future__ import annotations

import importlib
import inspect
import logging
from contextlib import closing
from pathlib import Path

import numpy as np

from mads4.build.environments import env_spec
from mads4.build.recordings import record
from mads4.config import (
    AlberdiceDataset,
    CustomDataset,
    DatasetConfig,
    FileDataset,
    GeneratedDataset,
)
from mads4.data.dataset import Dataset
from mads4.data.formats.alberdice import open_alberdice
from mads4.data.store import read_dataset
from mads4.envs.matrix_game import MatrixGame
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError

_LOG = logging.getLogger(__name__)


def dataset(config: DatasetConfig, make_env: EnvFactory, progress: bool) -> Dataset:
    """Return the data set, recorded first if need be, checked against the environment.

    Raises:
        UserError: a missing, damaged or unfitting data set.
    """
    if isinstance(config, GeneratedDataset):
        path = record(make_env, config, progress)
        data, source = read_dataset(path), str(path)
    elif isinstance(config, FileDataset):
        data, source = read_dataset(Path(config.path).expanduser()), config.path
    elif isinstance(config, AlberdiceDataset):
        data, source = _alberdice_dataset(config, make_env), config.path
    else:
        data, source = _custom_dataset(config), config.factory
    data.spec.require_compatible(env_spec(make_env), f"the data set {source}", "the environment")
    if config.episodes is not None and config.episodes < len(data):
        _LOG.info("taking the first %d of %d episodes", config.episodes, len(data))
        data = data.select(range(config.episodes))
    return data


def _alberdice_dataset(config: AlberdiceDataset, make_env: EnvFactory) -> Dataset:
    """Read a folder; where rewards follow from the actions, they must be the environment's."""
    with closing(make_env()) as env:
        recording = open_alberdice(config.path, env.spec)
        data = Dataset.from_episodes(
            recording.spec, recording.episodes(), recording.origin, recording.name
        )
        if isinstance(env, MatrixGame) and not data.spec.differences(env.spec):
            _require_payoff(data, env, config.path)
    return data


def _require_payoff(data: Dataset, game: MatrixGame, source: str) -> None:
    """Raise `UserError` when some reward of the data is not what the game pays for the actions."""
    actions = data.action.astype(np.int64)
    known = (actions < game.payoff.shape).all(axis=-1)
    paid = np.full(len(actions), np.nan)
    paid[known] = game.rewards(actions[known])
    wrong = np.flatnonzero(~np.isclose(data.reward, paid))
    if len(wrong):
        row = wrong[0]
        raise UserError(
            f"env.payoff: {source} was recorded in another game: joint action "
            f"{actions[row].tolist()} earned {data.reward[row]:g} there, here it earns "
            f"{paid[row]:g}."
        )


def _custom_dataset(config: CustomDataset) -> Dataset:
    module, _, name = config.factory.partition(":")
    try:
        read = getattr(importlib.import_module(module), name)
        inspect.signature(read).bind(**config.options)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"dataset.factory: '{config.factory}' cannot be called: {error}") from error
    data = read(**config.options)  # an error in there is a bug, whose traceback is wanted
    if not isinstance(data, Dataset):
        raise UserError(
            f"dataset.factory: '{config.factory}' returned {type(data).__name__}, expected "
            "mads4.data.dataset.Dataset (Dataset.from_episodes makes one)."
        )
    return data
