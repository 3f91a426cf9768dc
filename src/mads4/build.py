"""The composition root: configuration → objects. The only module that knows all the others."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mads4.behaviour.quality import noise_range
from mads4.behaviour.registry import BehaviourFactory
from mads4.config import (
    AlberdiceDataset,
    CustomDataset,
    CustomEnv,
    DatasetConfig,
    EnvConfig,
    FileDataset,
    GeneratedDataset,
    MatrixGameEnv,
    ModelConfig,
    TrainerConfig,
)
from mads4.data.collect import collect
from mads4.data.dataset import Dataset, DatasetHeader
from mads4.data.formats.alberdice import read_alberdice
from mads4.data.statistics import normalisation
from mads4.data.store import read_dataset, read_header
from mads4.envs.matrix_game import MatrixGame
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.kernels.backends import AUTO
from mads4.models import Mads4Policy
from mads4.progress import progress_bar
from mads4.train.loop import Intervals
from mads4.train.offline import OfflineSettings
from mads4.types import EnvSpec

_LOG = logging.getLogger(__name__)


def device(name: str, threads: int | None = None) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` … stands for, and set CPU threads.

    Raises:
        UserError: a device that PyTorch does not find here.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    available = {
        "cpu": True,
        "cuda": (chosen.index or 0) < torch.cuda.device_count(),
    }
    if not available[chosen.type]:
        found = [kind for kind, here in available.items() if here]
        raise UserError(
            f"device: '{name}' is not available here; PyTorch {torch.__version__} finds "
            f"{', '.join(found)}. Use device=auto."
        )
    return chosen


def environment(config: EnvConfig) -> EnvFactory:
    """Return a picklable maker of environments."""
    if isinstance(config, CustomEnv):
        return EnvFactory("custom", {"factory": config.factory, "options": config.options})
    if isinstance(config, MatrixGameEnv):
        return EnvFactory(
            config.name, {"payoff": config.payoff, "episode_limit": config.episode_limit}
        )
    return EnvFactory(
        config.name,
        {
            "scenario": config.scenario,
            "reward": config.reward,
            "state_encoding": config.state_encoding,
            "options": config.options,
        },
    )


def env_spec(make_env: EnvFactory) -> EnvSpec:
    """Return the spec of the environments that a factory makes."""
    with closing(make_env()) as env:
        return env.spec


def data_directory() -> Path:
    """Return where recorded data sets live: $MADS4_DATA_DIR, else the user's cache."""
    chosen = os.environ.get("MADS4_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "mads4"


def generated_path(make_env: EnvFactory, spec: EnvSpec, config: GeneratedDataset) -> Path:
    """Return the file of a recorded data set; its name tells one recording from another."""
    if config.path is not None:
        return Path(config.path).expanduser()
    who = (
        config.behaviour
        if config.behaviour == "random"
        else (f"{config.behaviour}-{config.quality}")
    )
    stem = (
        f"{spec.name}-{spec.scenario}-{who}-{config.episodes}-seed{config.seed}"
        f"-{spec.reward}-{spec.state_encoding}"
    )
    own = {key: make_env.arguments.get(key) for key in ("factory", "options")}
    if any(own.values()):  # a changed environment of the same name is another one
        stem += f"-{hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]}"
    return data_directory() / f"{stem}.h5"


def record(make_env: EnvFactory, config: GeneratedDataset, progress: bool) -> Path:
    """Record a data set, or go on with one, or find it complete; return its file."""
    spec = env_spec(make_env)
    path = generated_path(make_env, spec, config)
    options = make_env.arguments.get("options", {})
    if path.exists() and _answers(read_header(path), spec, options, config):
        _LOG.info("data set %s is there already", path)
        return path
    workers = config.workers or os.cpu_count() or 1
    description: dict[str, Any] = {
        "name": config.behaviour,
        "seed": config.seed,
        "options": options,
    }
    factory = BehaviourFactory(config.behaviour)
    if config.behaviour != "random":
        _LOG.info("measuring how much noise makes '%s' data", config.quality)
        plan = noise_range(make_env, factory, config.quality, config.seed, workers=workers)
        factory = BehaviourFactory(config.behaviour, plan.low, plan.high)
        description |= {
            "quality": config.quality,
            "noise": [plan.low, plan.high],
            "random_return": plan.random_return,
            "expert_return": plan.expert_return,
        }
    with progress_bar("recording", config.episodes, progress) as advance:
        return collect(
            make_env,
            factory,
            config.episodes,
            config.seed,
            path,
            behaviour=description,
            workers=workers,
            on_progress=lambda done, _: advance(done, "episodes"),
        )


def _answers(
    header: DatasetHeader, spec: EnvSpec, options: Mapping[str, Any], config: GeneratedDataset
) -> bool:
    """Whether a complete file holds what `config` asks for (`collect` names differences)."""
    behaviour = header.behaviour
    return (
        not header.spec.differences(spec)
        and len(header) == config.episodes
        and behaviour.get("name") == config.behaviour
        and behaviour.get("seed") == config.seed
        and behaviour.get("options") == options
        and behaviour.get("quality", config.quality) == config.quality
    )


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
        data = read_alberdice(config.path, env.spec)
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


def policy(config: ModelConfig, spec: EnvSpec, backend: str = AUTO) -> Mads4Policy:
    """Return a freshly initialised policy that computes its kernels with `backend`."""
    options = config.model_dump(exclude={"name"})
    try:
        return Mads4Policy(spec, backend=backend, **options)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def normalise(model: Mads4Policy, training: Dataset) -> None:
    """Give the policy the statistics of its training data."""
    found = normalisation(training)
    model.embedding.set_normalisation(
        {
            "observation_mean": torch.from_numpy(found.observation_mean),
            "observation_std": torch.from_numpy(found.observation_std),
            "state_mean": torch.from_numpy(found.state_mean),
            "state_std": torch.from_numpy(found.state_std),
            "return_scale": torch.tensor(max(float(np.abs(training.returns).max()), 1e-6)),
        }
    )


def trained_policy(payload: Mapping[str, Any], precision: str = "float32") -> Mads4Policy:
    """Return the policy that a checkpoint holds, ready to act in a floating-point type."""
    model = policy(ModelConfig(**payload["model"]), EnvSpec.from_dict(payload["spec"]))
    model.load_state_dict(payload["policy"])
    return model.to(getattr(torch, precision)).eval()


def offline_settings(config: TrainerConfig) -> OfflineSettings:
    """Return the optimisation's numbers."""
    return OfflineSettings(**config.model_dump(include=set(OfflineSettings.__dataclass_fields__)))


def intervals(config: TrainerConfig) -> Intervals:
    """Return when to log, validate and save."""
    return Intervals(
        steps=config.steps,
        log=config.log_interval,
        validation=config.validation_interval,
        checkpoint=config.checkpoint_interval,
        keep=config.keep_every,
    )
