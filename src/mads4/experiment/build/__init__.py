"""The composition root: configuration → objects. Nothing else knows all the other parts."""

from mads4.data.directory import data_directory
from mads4.experiment.build.datasets import dataset
from mads4.experiment.build.devices import device
from mads4.experiment.build.environments import env_spec, environment
from mads4.experiment.build.policies import (
    allowed_factory,
    model_settings,
    normalize,
    policy,
    trained_policy,
)
from mads4.experiment.build.recordings import generated_path, record
from mads4.experiment.build.training import intervals, sampler

__all__ = [
    "allowed_factory",
    "data_directory",
    "dataset",
    "device",
    "env_spec",
    "environment",
    "generated_path",
    "intervals",
    "model_settings",
    "normalize",
    "policy",
    "record",
    "sampler",
    "trained_policy",
]
