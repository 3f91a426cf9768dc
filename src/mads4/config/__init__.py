"""Configuration: the schemas of the commands, and what reads, checks and explains them.

The YAML files of `mads4.conf` hold values; the schema of a group's option stands beside what it
configures and is found by the option's name. `mads4.config.validation.parse` joins the two. Only
`compose` and `directories` import Hydra, and nothing here imports torch before an option needs it.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, SerializeAsAny

from mads4.config.trainer import (
    OfflineOnlineTrainerConfig,
    OfflineTrainerConfig,
    OnlineTrainerConfig,
    TrainerSettings,
)
from mads4.data.settings import (
    PLAYERS,
    CustomDataset,
    DatasetSettings,
    FileDataset,
    GeneratedDataset,
    RecordedDataset,
)
from mads4.envs.registry import EnvSettings
from mads4.kernels.backends import KernelConfig, KernelSettings
from mads4.settings import (
    Device,
    Factory,
    Name,
    NotNegative,
    Positive,
    Rate,
    Registry,
    Settings,
    Target,
)

if TYPE_CHECKING:
    from mads4.algorithms.base import AlgorithmSettings
    from mads4.models import ModelSettings
else:  # their modules import torch, which takes a second; `validation` knows the exact schemas
    AlgorithmSettings = ModelSettings = Settings

__all__ = [
    "PLAYERS",
    "AnyConfig",
    "CollectConfig",
    "Command",
    "Config",
    "CustomDataset",
    "DatasetSettings",
    "EvaluateConfig",
    "EvaluatorConfig",
    "FileDataset",
    "GeneratedDataset",
    "LoggerConfig",
    "OfflineOnlineTrainerConfig",
    "OfflineTrainerConfig",
    "OnlineTrainerConfig",
    "ProbeConfig",
    "RecordedDataset",
    "TrainerSettings",
    "registry",
]

REGISTRIES = {
    "algorithm": "mads4.algorithms.base:ALGORITHMS",
    "dataset": "mads4.data.settings:DATASETS",
    "env": "mads4.envs.registry:ENVS",
    "kernel": "mads4.kernels.backends:KERNELS",
    "model": "mads4.models:MODELS",
    "online_algorithm": "mads4.algorithms.base:ALGORITHMS",
    "trainer": "mads4.config.trainer:TRAINERS",
}
"""Group with several options → where these are found by name."""


def registry(group: str) -> Registry[Any]:
    """Return the options of a group, a key of `REGISTRIES`; its module is imported only now."""
    found: Registry[Any] = resolve_name(REGISTRIES[group])
    return found


def _option(group: str, name: str) -> Any:
    """Return a field whose default is the option `name` of `group`, with its default settings."""
    return Field(default_factory=lambda: registry(group).schema(name)())


class _Rollouts(Settings):
    """How the episodes of an evaluation are played."""

    num_envs: Positive = 32
    """Environments stepped together; in float64 it does not change the result."""
    num_workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for a number that suits them."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    seed: NotNegative = 1000
    """Seed of the episodes, apart from the training's."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the policy; float64 gives the same episodes for any `num_envs`."""


class EvaluatorConfig(_Rollouts):
    """Playing the trained policy."""

    episodes: Positive = 32
    """Episodes per return target."""
    target_returns: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)] = (
        "1.1*max",
        "mean",
    )
    """Return-to-go at the start: numbers, or `[number*]max|mean|min` of the data's returns."""
    deterministic: bool | None = False
    """Take the most likely actions instead of sampling; null as in the training's evaluation."""
    message_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a message is dropped, drawn per agent and step."""
    video: bool = False
    """Write a GIF of the first episode."""
    video_steps: Positive | None = None
    """Length of the video in steps; null for the whole episode."""
    baselines: bool = True
    """Also play the random policy and the expert, to normalize scores."""
    baseline_episodes: Positive = 16
    """Episodes of each baseline."""

    def video_problems(self, env: str) -> list[str]:
        """Return a line if a video of the supervised environment `env` is configured."""
        if not self.video or self.num_workers == 0:
            return []
        return [
            f"evaluator.video: true does not go with env={env}: the rendered game would play "
            "outside the supervised processes and could hang forever; use evaluator.video=false, "
            "or turn supervision off with evaluator.num_workers=0"
        ]


class LoggerConfig(Settings):
    """Where metrics go besides `metrics.jsonl`."""

    tensorboard: bool = True
    """Write TensorBoard files."""


class Command(Settings):
    """What every command takes."""

    progress: bool = True
    """Show progress bars."""


class Config(Command):
    """`mads4 train`."""

    name: Name = "mads4"
    """Folder of the run: outputs/<name>/<time>."""
    seed: NotNegative = 0
    """Seed of weights, batches and dropout."""
    resume: Literal["auto"] | None = None
    """auto continues an unfinished run; null insists on a fresh directory."""
    init_from: str | None = None
    """Checkpoint or run directory to take weights and normalization from."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: SerializeAsAny[EnvSettings] = _option("env", "rware")
    dataset: SerializeAsAny[DatasetSettings] = GeneratedDataset()
    model: SerializeAsAny[ModelSettings] = _option("model", "mads4")
    kernel: SerializeAsAny[KernelSettings] = KernelConfig()
    algorithm: SerializeAsAny[AlgorithmSettings] = _option("algorithm", "bc")
    """Algorithm of the training, or of its offline phase."""
    online_algorithm: SerializeAsAny[AlgorithmSettings] = _option("online_algorithm", "mappo")
    """Algorithm of the online phase of trainer=offline_online."""
    trainer: SerializeAsAny[TrainerSettings] = OfflineTrainerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    logger: LoggerConfig = LoggerConfig()


class CollectConfig(Command):
    """`mads4 collect`."""

    name: Name = "mads4"
    """Folder of the recording's log: outputs/collect/<name>/<time>."""
    env: SerializeAsAny[EnvSettings] = _option("env", "rware")
    dataset: GeneratedDataset = GeneratedDataset()


class _OfCheckpoint(Command):
    """What the commands take that play a trained policy."""

    checkpoint: str
    """Run directory, or a checkpoint file."""
    model_factory: Factory | None = None
    """For a policy of model=custom: its factory, which is not imported unless given here."""
    env_factory: Factory | None = None
    """The same for env=custom's factory, or env=smac's simulator if it is not SMAC's own."""
    name: Name = "mads4"
    """Folder of the output: outputs/<command>/<name>/<time>."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: SerializeAsAny[EnvSettings] | None = None
    """Environment to play; null for the one the policy was trained for."""
    kernel: SerializeAsAny[KernelSettings] = KernelConfig()


class EvaluateConfig(_OfCheckpoint):
    """`mads4 evaluate`."""

    evaluator: EvaluatorConfig = EvaluatorConfig(deterministic=None)


class ProbeConfig(_Rollouts, _OfCheckpoint):
    """`mads4 probe`."""

    episodes: Positive = 64
    """Episodes for each ablation, always the same ones."""
    target_return: Target | None = None
    """As in evaluator.target_returns; null for the first one of the policy's own run."""
    deterministic: bool = False
    """Take the most likely actions instead of sampling."""
    message_dropout: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False, min_length=1)
    ] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    """Probabilities that a message is dropped, each tried in turn."""
    gradient_episodes: Positive = 8
    """Episodes whose gradients are measured."""


AnyConfig: TypeAlias = Config | CollectConfig | EvaluateConfig | ProbeConfig
