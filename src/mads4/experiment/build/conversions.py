"""Data sets in other projects' formats: found, converted once, and kept under the source's key."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mads4.data.convert import convert
from mads4.data.directory import data_directory, locked
from mads4.data.formats.recording import Recording
from mads4.data.sources import source_key
from mads4.io import json_safe
from mads4.logging import progress_bar

_LOG = logging.getLogger(__name__)


def converted_path(recording: Recording) -> Path:
    """Return the file that a recording's conversion is kept in.

    Its name changes with the reader's version and options, the environment's definitions, and the
    names, sizes or times of change of the source's files, none of which is read for that.
    """
    identity = {
        "origin": json_safe(recording.origin),
        "spec": recording.spec.to_dict(),
        "source": source_key(recording.files),
    }
    text = json.dumps(identity, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]+", "_", recording.name) or "data"
    return data_directory() / "converted" / f"{stem}-{key}.h5"


def converted(
    recording: Recording, about: Mapping[str, Any] | None = None, progress: bool = False
) -> Path:
    """Return the data set file of a recording, made now if it is not there.

    Of two processes that want the same one, one converts while the other waits.

    Args:
        recording: somebody's format.
        about: further facts on the origin for the file's header.
        progress: show how far it is.

    Raises:
        UserError: the recording is damaged, or the folder cannot be written to.
    """
    path = converted_path(recording)
    with locked(path.with_name(f"{path.name}.lock"), f"converts {recording.name}"):
        if path.exists():
            _LOG.info("data set %s is converted already: %s", recording.name, path)
            return path
        _LOG.info("converting %s to %s", recording.name, path)
        with progress_bar("converting", None, progress) as advance:
            header = convert(recording, path, about=about, on_progress=advance)
    for reason, count in header.behavior["skipped"]["reasons"].items():
        _LOG.warning("%s: %d episodes were left out: %s", recording.name, count, reason)
    return path
