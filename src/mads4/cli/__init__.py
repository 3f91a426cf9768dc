"""The command `mads4`: thin, and quick to say what is wrong."""

from mads4.cli.main import main

__all__ = ["main"]
