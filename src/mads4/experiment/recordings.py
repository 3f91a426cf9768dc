"""Data sets that are generated on demand, and their files: dataset=generated, `mads4 collect`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mads4.behavior.quality import MEASURES, noise_range
from mads4.behavior.registry import BehaviorFactory
from mads4.config import PLAYERS, CollectConfig, GeneratedDataset
from mads4.data.collect import collect as collect_episodes
from mads4.data.dataset import DatasetHeader
from mads4.data.files import data_directory
from mads4.data.store import read_header
from mads4.envs.protocol import env_spec
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import Incidents
from mads4.errors import UserError
from mads4.evaluation.record import RunRecord
from mads4.experiment.components import environment
from mads4.logging import progress_bar
from mads4.types import EnvSpec

_LOG = logging.getLogger(__name__)


def collect(config: CollectConfig, run_dir: Path) -> None:
    """Record the data set that the configuration describes: `mads4 collect`."""
    summary: dict[str, Any] = {"name": config.name}
    path = record(
        environment(config.env),
        config.dataset,
        config.progress,
        lambda incidents: summary.update(incidents.to_dict()),
    )
    RunRecord.of(summary | {"data": read_header(path).summary()}).write(run_dir)
    _LOG.info("data set: %s (look at it with: mads4 data show %s)", path, path)


def generated_path(make_env: EnvFactory, spec: EnvSpec, config: GeneratedDataset) -> Path:
    """Return the file of a generated data set; its name depends on all settings."""
    if config.path is not None:
        return Path(config.path).expanduser()
    player = _policy_name(spec, config)
    who = player if player == "random" else f"{player.replace(':', '.')}-{config.quality}"
    stem = (
        f"{spec.name}-{spec.scenario}-{who}-{config.episodes}-seed{config.seed}"
        f"-{spec.reward}-{spec.state_encoding}"
    )
    own = {key: make_env.arguments.get(key) for key in ("factory", "options")}
    if any(own.values()):  # a changed environment of the same name is another one
        stem += f"-{hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]}"
    return data_directory() / f"{stem}.h5"


def record(
    make_env: EnvFactory,
    config: GeneratedDataset,
    progress: bool,
    on_incidents: Callable[[Incidents], None] | None = None,
) -> Path:
    """Record a data set, resume one, or reuse a complete one; return its file.

    `on_incidents` is called with the failures of supervised environments, if there are any.
    """
    spec = env_spec(make_env)
    path, player = generated_path(make_env, spec, config), _policy_name(spec, config)
    options = make_env.arguments.get("options", {})
    if path.exists() and _matches(read_header(path), spec, options, config):
        _LOG.info("reusing the data set %s", path)
        return path
    workers = config.num_workers or os.cpu_count() or 1
    factory, quality = _behavior(make_env, spec, player, config, workers)
    with progress_bar("recording", config.episodes, progress) as advance:
        return collect_episodes(
            make_env,
            factory,
            config.episodes,
            config.seed,
            path,
            behavior={"name": player, "seed": config.seed, "options": options, **quality},
            workers=workers,
            on_progress=lambda done, _: advance(done, "episodes"),
            on_incidents=on_incidents,
        )


def _behavior(
    make_env: EnvFactory, spec: EnvSpec, player: str, config: GeneratedDataset, workers: int
) -> tuple[BehaviorFactory, dict[str, Any]]:
    """Return the behavior policy with the noise for its quality, and facts for the header."""
    if player == "random":
        return BehaviorFactory(player), {}
    _LOG.info("measuring how much noise makes '%s' data", config.quality)
    plan = noise_range(
        make_env,
        BehaviorFactory(player),
        config.quality,
        config.seed,
        workers=workers,
        measure=MEASURES.get(spec.name),
    )
    facts: dict[str, Any] = {
        "quality": config.quality,
        "noise": [plan.low, plan.high],
        "random_return": plan.random_return,
        "expert_return": plan.expert_return,
    }
    if spec.name in MEASURES:
        facts |= {"measure": plan.measure, "expert_metrics": dict(plan.expert_metrics)}
    return BehaviorFactory(player, plan.low, plan.high), facts


def _policy_name(spec: EnvSpec, config: GeneratedDataset) -> str:
    """Return the name of the behavior policy; by default the environment's."""
    players: tuple[str, ...] = PLAYERS.get(spec.name, ())
    if config.behavior_policy is None and not players:
        raise UserError(
            f"dataset.behavior_policy: there is no expert for {spec.name}; "
            "use dataset.behavior_policy=random."
        )
    return config.behavior_policy or players[0]


def _matches(
    header: DatasetHeader, spec: EnvSpec, options: Mapping[str, Any], config: GeneratedDataset
) -> bool:
    """Whether a complete file matches `config` (`collect` reports the differences)."""
    behavior = header.behavior
    return (
        not header.spec.differences(spec)
        and len(header) == config.episodes
        and behavior.get("name") == _policy_name(spec, config)
        and behavior.get("seed") == config.seed
        and behavior.get("options") == options
        and behavior.get("quality", config.quality) == config.quality
    )
