"""The composition root: configuration → objects. Nothing else knows all the other parts."""

from mads4.build.datasets import dataset
from mads4.build.devices import device
from mads4.build.environments import env_spec, environment
from mads4.build.policies import normalise, policy, trained_policy
from mads4.build.recordings import generated_path, record
from mads4.build.training import intervals, offline_settings, sampler
from mads4.data.directory import data_directory

__all__ = [
    "data_directory",
    "dataset",
    "device",
    "env_spec",
    "environment",
    "generated_path",
    "intervals",
    "normalise",
    "offline_settings",
    "policy",
    "record",
    "sampler",
    "trained_policy",
]
