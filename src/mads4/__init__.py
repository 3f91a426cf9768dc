"""Multi-Agent Decision S4: sequence models for offline multi-agent reinforcement learning."""

__version__ = "0.1.0"
