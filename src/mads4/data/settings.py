"""Schemas of the group `dataset`; a file format's own schema is in its module in `formats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mads4.settings import Factory, NotNegative, Positive, Registry, Settings, lower

if TYPE_CHECKING:
    from mads4.data.registry import Entry

PLAYERS: dict[str, tuple[str, ...]] = {
    "rware": ("greedy", "planner"),
    "smax": ("focus_fire", "heuristic"),
}
"""Environment family → its behavior policies besides random, the default first."""


class DatasetSettings(Settings):
    """Base of the schemas in the group ``dataset``."""

    name: str
    """Kind of data set."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the episodes that is held out for the validation loss, between 0 and 1."""
    in_memory: bool | None = None
    """Read the steps into memory, or from disk on demand; null: by size and free memory."""
    episodes: Positive | None = None
    """Use only the first episodes, this many; null for all."""


DATASETS: Registry[DatasetSettings] = Registry("dataset", "mads4.data.formats")
"""The group ``dataset``. A format without a schema of its own has `RecordedDataset`."""


@DATASETS.register("generated")
class GeneratedDataset(DatasetSettings):
    """A data set recorded by a behavior policy, once, then reused."""

    name: Literal["generated"] = "generated"
    """Kind of data set."""
    behavior_policy: (
        Literal["greedy", "planner", "focus_fire", "heuristic", "random"] | Factory | None
    ) = None
    """Expert for the environment, random, or `package.module:function` that makes a
    `mads4.envs.protocol.BehaviorPolicy`; null for the expert that is easiest to imitate."""
    quality: Annotated[Literal["expert", "good", "medium", "poor"], BeforeValidator(lower)] = (
        "expert"
    )
    """Band between random and the expert without noise: of the mean return; for SMAX of the share
    of battles won, where that expert wins a fifth or more."""
    episodes: Positive = 1000
    """Number of episodes."""
    seed: NotNegative = 0
    """Seed of the recording; episode k depends on (seed, k) only."""
    num_workers: Positive | None = None
    """Processes that record; null for one per core."""
    path: str | None = None
    """File to record to; null for one under $MADS4_DATA_DIR, else ~/.cache/mads4."""


@DATASETS.register("file")
class FileDataset(DatasetSettings):
    """A data set in a file of this package's own format."""

    name: Literal["file"] = "file"
    """Kind of data set."""
    path: str
    """HDF5 file written by `mads4 collect` or `mads4 data convert`."""


class RecordedDataset(DatasetSettings):
    """What data sets in other projects' formats have in common; each is converted once."""

    name: str
    """Kind of data set: the key of its reader."""
    path: str | None = None
    """Folder, or name in `mads4 data list`; null takes the listed one for env and quality."""
    quality: Annotated[str, BeforeValidator(lower)] = "good"
    """Which of the listed data sets for the environment, for example good, medium or poor."""

    def reader_options(self, entry: Entry | None) -> dict[str, Any]:
        """Return the keyword arguments of the format's reader besides path and environment.

        Args:
            entry: the data set's entry in the registry; None for the user's own data.
        """
        return {}


@DATASETS.register("custom")
class CustomDataset(DatasetSettings):
    """A data set read by the user's own code."""

    name: Literal["custom"] = "custom"
    """Kind of data set."""
    factory: Factory
    """Function `package.module:function` that returns a data set."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""


DATASETS.default = RecordedDataset
