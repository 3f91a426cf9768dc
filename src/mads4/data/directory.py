"""Where data live on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def data_directory() -> Path:
    """Return where recorded data sets live: $MADS4_DATA_DIR, else the user's cache."""
    chosen = os.environ.get("MADS4_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "mads4"
