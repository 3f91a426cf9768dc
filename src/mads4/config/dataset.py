"""Data sets: the group `dataset`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from mads4.config.fields import Factory, NotNegative, Positive, Section, lower


class DatasetSection(Section):
    """What all data sets have in common."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the episodes that is held out for the validation loss, between 0 and 1."""
    in_memory: bool | None = None
    """Read the steps into memory, or from disk on demand; null: by size and free memory."""


class GeneratedDataset(DatasetSection):
    """A data set recorded by a behaviour policy, once, then reused."""

    name: Literal["generated"] = "generated"
    """Kind of data set."""
    behaviour: Literal["greedy", "planner", "random"] = "greedy"
    """Who plays: greedy expert, cooperative planner, or uniformly random."""
    quality: Annotated[Literal["expert", "good", "medium", "poor"], BeforeValidator(lower)] = (
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


DatasetConfig: TypeAlias = Annotated[
    GeneratedDataset | FileDataset | AlberdiceDataset | CustomDataset,
    Field(discriminator="name"),
]
