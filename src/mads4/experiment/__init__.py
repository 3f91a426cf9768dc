"""The jobs: record data, train a policy, evaluate or probe one. Each leaves a run directory."""

from mads4.experiment.evaluating import evaluate, probe
from mads4.experiment.recordings import collect
from mads4.experiment.training import train

__all__ = ["collect", "evaluate", "probe", "train"]
