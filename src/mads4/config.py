"""What may be configured: one frozen, strictly typed schema for each configuration group.

The YAML files of `mads4.conf` hold the values, these classes say what they mean and what is
allowed; `mads4.config_check.parse` joins the two. Nothing here imports torch or hydra.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _text(pattern: str, expected: str) -> Any:
    """Return a string field's rule, with the words that explain it when it is broken."""
    return Field(pattern=f"^(?:{pattern})$", json_schema_extra={"expected": expected})


Positive: TypeAlias = Annotated[int, Field(ge=1)]
NotNegative: TypeAlias = Annotated[int, Field(ge=0)]
Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factory: TypeAlias = Annotated[
    str, _text(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "package.module:function")
]
Device: TypeAlias = Annotated[
    str, _text(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<index>")
]
Name: TypeAlias = Annotated[
    str, _text(r"\w[\w.-]*", "a folder's name: letters, digits, '_', '-' and '.'")
]
Scenario: TypeAlias = Annotated[
    str,
    _text(
        r"(tiny|small|medium|large)-[1-9]\d*ag(-easy|-hard)?",
        "{tiny|small|medium|large}-{k}ag[-easy|-hard], for example tiny-2ag",
    ),
]
Target: TypeAlias = (
    Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[
        str,
        _text(
            r"([+-]?(\d+\.?\d*|\.\d+) ?\* ?)?(max|mean|min)",
            "[number*]max, mean or min (for example 1.1*max)",
        ),
    ]
)
Payoff: TypeAlias = Annotated[
    list[Any],
    Field(
        min_length=1,
        json_schema_extra={"expected": "nested lists of numbers, one axis per agent"},
    ),
]
SSMParameter: TypeAlias = Literal["A", "B", "C", "dt", "D"]


class Section(BaseModel):
    """Common rules: read-only, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class RwareEnv(Section):
    """The Multi-Robot Warehouse."""

    name: Literal["rware"] = "rware"
    """Environment family."""
    scenario: Scenario = "tiny-2ag"
    """Warehouse size, number of agents and difficulty."""
    reward: Literal["deliveries", "alberdice"] = "deliveries"
    """Team reward: number of deliveries, or AlberDICE's shaped reward of agent 0."""
    state_encoding: Literal["entities", "maps", "coordinates", "alberdice"] = "entities"
    """How the global state is written as numbers."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the environment's constructor."""


class MatrixGameEnv(Section):
    """A matrix game, played again and again."""

    name: Literal["matrix_game"] = "matrix_game"
    """Environment family."""
    payoff: Payoff = [[0, 1], [1, -2]]
    """Team reward of each joint action: nested lists, one axis per agent."""
    episode_limit: Positive = 50
    """Length of an episode, in steps."""


class CustomEnv(Section):
    """An environment of the user's own."""

    name: Literal["custom"] = "custom"
    """Environment family."""
    factory: Factory
    """Function `package.module:function` that returns a `mads4.envs.protocol.MultiAgentEnv`."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""


class DatasetSection(Section):
    """What all data sets have in common."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the episodes that is held out for the validation loss, between 0 and 1."""


class GeneratedDataset(DatasetSection):
    """A data set recorded by a behaviour policy, once, then reused."""

    name: Literal["generated"] = "generated"
    """Kind of data set."""
    behaviour: Literal["greedy", "planner", "random"] = "greedy"
    """Who plays: greedy expert, cooperative planner, or uniformly random."""
    quality: Annotated[Literal["expert", "good", "medium", "poor"], BeforeValidator(_lower)] = (
        "expert"
    )
    """Band of the return normalised between random and the expert without noise."""
    episodes: Positive = 1000
    """Number of episodes."""
    seed: NotNegative = 0
    """Seed of the recording; episode k depends on (seed, k) only."""
    workers: Positive | None = None
    """Processes that record; null for one per core."""
    path: str | None = None
    """File to record to; null for one under $MADS4_DATA_DIR, else ~/.cache/mads4."""


class FileDataset(DatasetSection):
    """A data set in a file of this package's own format."""

    name: Literal["file"] = "file"
    """Kind of data set."""
    path: str
    """HDF5 file written by `mads4 collect`."""
    episodes: Positive | None = None
    """Take only that many episodes, the first; null for all."""


class AlberdiceDataset(DatasetSection):
    """A data set in AlberDICE's layout: a folder of NumPy arrays, recorded in `env`."""

    name: Literal["alberdice"] = "alberdice"
    """Kind of data set."""
    path: str
    """Folder with `actions.npy`, `filled.npy`, `meta.json` and so on."""
    episodes: Positive | None = None
    """Take only that many episodes, the first; null for all."""


class CustomDataset(DatasetSection):
    """A data set read by the user's own code."""

    name: Literal["custom"] = "custom"
    """Kind of data set."""
    factory: Factory
    """Function `package.module:function` that returns a data set."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    episodes: Positive | None = None
    """Take only that many episodes, the first; null for all."""


class ModelConfig(Section):
    """The MADS4 policy."""

    name: Literal["mads4"] = "mads4"
    """Policy architecture."""
    n_layers: Positive = 3
    """Number of S4 blocks."""
    d_model: Positive = 96
    """Width H of a block, in features."""
    d_state: Annotated[int, Field(ge=2, multiple_of=2)] = 96
    """State size N of each feature's state-space model; even."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping a block's channel, for a whole trajectory, in training."""
    parameterisation: Literal["diagonal", "dplr"] = "diagonal"
    """Form of the state matrix A: diagonal, or diagonal plus low rank (HiPPO-LegS)."""
    discretisation: Literal["zoh", "bilinear"] = "zoh"
    """From continuous to discrete time: zero-order hold or bilinear."""
    initialisation: Literal["legs", "lin", "inv", "random", "real"] = "legs"
    """Where a diagonal A starts; real: real modes instead of conjugate pairs. dplr: legs."""
    n_ssm: Positive | None = None
    """Independent pairs of A and B, a divisor of d_model; null for one per channel."""
    dt_min: Rate = 0.001
    """Smallest initial step size, in units of one environment step."""
    dt_max: Rate = 0.1
    """Largest initial step size, in units of one environment step."""
    trainable: Annotated[tuple[SSMParameter, ...], Field(strict=False)] = (
        "A",
        "B",
        "C",
        "dt",
        "D",
    )
    """State-space parameters that are trained; the others keep their initial values."""
    memory: bool = True
    """False cuts the blocks' memory: the same network, seeing one time step."""
    message: Literal["none", "output", "state", "logits"] = "output"
    """What an agent hands on: nothing, its output, read-outs of its S4 state, or its logits."""
    message_dim: Positive = 16
    """Width of the message, in features (output, state)."""
    message_time: Literal["same_step", "previous_step"] = "same_step"
    """When a message is read: agents decide one after another, or all at once, a step later."""
    share_action: bool = False
    """Hand on the action that was taken, too."""
    detach_message: bool = False
    """Keep gradients from flowing back through messages."""
    agent_order: Literal["fixed", "random"] = "fixed"
    """Who decides first: by number, or drawn for each trajectory and each episode."""
    message_drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that what is handed on is lost, in training."""
    use_return: bool = True
    """Condition on the return-to-go."""
    use_global_state: bool = True
    """Feed the global state."""
    use_previous_action: bool = True
    """Feed the agent's own previous action."""


class KernelConfig(Section):
    """How the S4 convolution kernel is computed."""

    backend: Literal["auto", "torch", "keops", "cuda"] = "auto"
    """auto takes the fastest that runs; torch always runs; keops and cuda where installed."""


class SSMLearningRates(Section):
    """Peak learning rate of each state-space parameter; null takes the network's."""

    A: Rate | None = 1e-3
    """Of the state matrix (with its low-rank part)."""
    B: Rate | None = 1e-3
    """Of the input vector."""
    C: Rate | None = None
    """Of the output vector."""
    dt: Rate | None = 1e-3
    """Of the step size."""
    D: Rate | None = None
    """Of the feedthrough."""


class TrainerConfig(Section):
    """Offline training by supervised sequence modelling."""

    name: Literal["offline"] = "offline"
    """Kind of training."""
    steps: Positive = 5000
    """Optimiser steps in all."""
    batch_size: Positive = 16
    """Trajectories (or windows) per step."""
    window: Positive | None = None
    """Time steps of a random window of the trajectory; null for whole trajectories."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    ssm_learning_rate: SSMLearningRates = SSMLearningRates()
    """Peak learning rates of the state-space parameters."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay; not applied to A, B and dt."""
    warmup_steps: NotNegative = 200
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    grad_clip: Rate = 1.0
    """Largest norm of the gradient."""
    validation_interval: Positive = 500
    """Steps between two validations; the best checkpoint is chosen there."""
    checkpoint_interval: Positive = 500
    """Steps between two saves of `last.pt`: what a crash may cost."""
    keep_every: Positive | None = None
    """Steps between checkpoints that are kept for good; null keeps last and best only."""
    log_interval: Positive = 50
    """Steps between two lines of metrics."""


class EvaluatorConfig(Section):
    """Playing the trained policy."""

    episodes: Positive = 32
    """Episodes per return target."""
    parallel: Positive = 32
    """Environments played in lockstep; in float64 it does not change the result."""
    workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for what suits their number."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    targets: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)] = ("1.1*max", "mean")
    """Returns to ask for: numbers, or `[number*]max|mean|min` of the data's returns."""
    sample: bool = True
    """Draw actions from the policy; false takes the likeliest."""
    message_drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that what an agent hands on is lost, at every step anew."""
    seed: NotNegative = 1000
    """Seed of the evaluation, apart from the training's."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the policy; float64 gives the same episodes for any `parallel`."""
    video: bool = False
    """Write a GIF of the first episode."""
    video_steps: Positive | None = None
    """Length of the video in steps; null for the whole episode."""
    baselines: bool = True
    """Also play the random policy and the expert, to normalise scores."""
    baseline_episodes: Positive = 16
    """Episodes of each baseline."""


class LoggerConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    tensorboard: bool = True
    """Write TensorBoard files."""


EnvConfig: TypeAlias = Annotated[RwareEnv | MatrixGameEnv | CustomEnv, Field(discriminator="name")]
DatasetConfig: TypeAlias = Annotated[
    GeneratedDataset | FileDataset | AlberdiceDataset | CustomDataset,
    Field(discriminator="name"),
]


class Command(Section):
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
    """Checkpoint or run directory to take weights and normalisation from."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: EnvConfig = RwareEnv()
    dataset: DatasetConfig = GeneratedDataset()
    model: ModelConfig = ModelConfig()
    kernel: KernelConfig = KernelConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    logger: LoggerConfig = LoggerConfig()


class CollectConfig(Command):
    """`mads4 collect`."""

    name: Name = "mads4"
    """Folder of the recording's log: outputs/collect/<name>/<time>."""
    env: EnvConfig = RwareEnv()
    dataset: GeneratedDataset = GeneratedDataset()


class EvaluateConfig(Command):
    """`mads4 evaluate`."""

    checkpoint: str
    """Run directory, or a checkpoint file."""
    name: Name = "mads4"
    """Folder of the evaluation: outputs/evaluate/<name>/<time>."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: EnvConfig | None = None
    """Environment to play; null for the one the policy was trained for."""
    evaluator: EvaluatorConfig = EvaluatorConfig()


class ProbeConfig(Command):
    """`mads4 probe`."""

    checkpoint: str
    """Run directory, or a checkpoint file."""
    name: Name = "mads4"
    """Folder of the analysis: outputs/probe/<name>/<time>."""
    device: Device = "auto"
    """Where tensors live; auto takes a CUDA device if there is one."""
    threads: Positive | None = None
    """PyTorch's CPU threads; null leaves PyTorch's choice."""
    env: EnvConfig | None = None
    """Environment to play; null for the one the policy was trained for."""
    episodes: Positive = 64
    """Episodes for each disturbance, always the same ones."""
    parallel: Positive = 32
    """Environments played in lockstep; in float64 it does not change the result."""
    workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for what suits their number."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    target: Target | None = None
    """Return to ask for, as in evaluator.targets; null for the first of the policy's own run."""
    sample: bool = True
    """Draw actions from the policy; false takes the likeliest."""
    message_drop: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False, min_length=1)
    ] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    """Probabilities that what an agent hands on is lost, each tried in turn."""
    gradient_episodes: Positive = 8
    """Episodes whose gradients are measured."""
    seed: NotNegative = 1000
    """Seed of the episodes, apart from the training's."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the policy; float64 gives the same episodes for any `parallel`."""


AnyConfig: TypeAlias = Config | CollectConfig | EvaluateConfig | ProbeConfig
