"""The commands: one schema for all that each of them takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, SerializeAsAny

from mads4.algorithms.base import ALGORITHMS, AlgorithmSettings
from mads4.algorithms.bc import BCConfig
from mads4.algorithms.mappo import MAPPOConfig
from mads4.config.dataset import DATASETS, DatasetSettings, GeneratedDataset
from mads4.config.evaluator import EvaluatorConfig, LoggerConfig
from mads4.config.fields import Device, Name, Target
from mads4.config.trainer import TRAINERS, OfflineTrainerConfig, TrainerSettings
from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.rware import RwareConfig
from mads4.models import MODELS, Mads4Config, ModelSettings
from mads4.settings import Factory, NotNegative, Positive, Rate, Registry, Settings

REGISTRIES: dict[type[Settings], Registry[Any]] = {
    AlgorithmSettings: ALGORITHMS,
    DatasetSettings: DATASETS,
    EnvSettings: ENVS,
    ModelSettings: MODELS,
    TrainerSettings: TRAINERS,
}
"""Base of a group's schemas → where the group's options are found by name."""


class KernelConfig(Settings):
    """How the S4 convolution kernel is computed."""

    backend: str = "auto"
    """auto takes the fastest that runs; torch always runs; keops and cuda where installed."""


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
    env: SerializeAsAny[EnvSettings] = RwareConfig()
    dataset: SerializeAsAny[DatasetSettings] = GeneratedDataset()
    model: SerializeAsAny[ModelSettings] = Mads4Config()
    kernel: KernelConfig = KernelConfig()
    algorithm: SerializeAsAny[AlgorithmSettings] = BCConfig()
    """Algorithm of the training, or of its offline phase."""
    online_algorithm: SerializeAsAny[AlgorithmSettings] = MAPPOConfig()
    """Algorithm of the online phase of trainer=offline_online."""
    trainer: SerializeAsAny[TrainerSettings] = OfflineTrainerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    logger: LoggerConfig = LoggerConfig()


class CollectConfig(Command):
    """`mads4 collect`."""

    name: Name = "mads4"
    """Folder of the recording's log: outputs/collect/<name>/<time>."""
    env: SerializeAsAny[EnvSettings] = RwareConfig()
    dataset: GeneratedDataset = GeneratedDataset()


class EvaluateConfig(Command):
    """`mads4 evaluate`."""

    checkpoint: str
    """Run directory, or a checkpoint file."""
    model_factory: Factory | None = None
    """For a policy of model=custom: its factory, which is not imported unless given here."""
    env_factory: Factory | None = None
    """The same for env=custom's factory, or env=smac's simulator if it is not SMAC's own."""
    name: Name = "mads4"
    """Folder of the evaluation: outputs/evaluate/<name>/<time>."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: SerializeAsAny[EnvSettings] | None = None
    """Environment to play; null for the one the policy was trained for."""
    evaluator: EvaluatorConfig = EvaluatorConfig(deterministic=None)


class ProbeConfig(Command):
    """`mads4 probe`."""

    checkpoint: str
    """Run directory, or a checkpoint file."""
    model_factory: Factory | None = None
    """For a policy of model=custom: its factory, which is not imported unless given here."""
    env_factory: Factory | None = None
    """The same for env=custom's factory, or env=smac's simulator if it is not SMAC's own."""
    name: Name = "mads4"
    """Folder of the analysis: outputs/probe/<name>/<time>."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: SerializeAsAny[EnvSettings] | None = None
    """Environment to play; null for the one the policy was trained for."""
    episodes: Positive = 64
    """Episodes for each ablation, always the same ones."""
    num_envs: Positive = 32
    """Environments stepped together; in float64 it does not change the result."""
    num_workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for a number that suits them."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
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
    seed: NotNegative = 1000
    """Seed of the episodes, apart from the training's."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the policy; float64 gives the same episodes for any `num_envs`."""


AnyConfig: TypeAlias = Config | CollectConfig | EvaluateConfig | ProbeConfig
