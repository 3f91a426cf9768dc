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
from mads4.data.files import data_directory, locked, source_key
from mads4.data.formats import Source
from mads4.io import json_safe
from mads4.logging import progress_bar

_LOG = logging.getLogger(__name__)


def converted_path(source: Source) -> Path:
    """Return the file that a source's conversion is kept in.

    Its name changes with the reader's version and options, the environment's definitions, and the
    names, sizes or times of change of the source's files, none of which is read for that.
    """
    identity = {
        "origin": json_safe(source.origin),
        "spec": source.spec.to_dict(),
        "source": source_key(source.files),
    }
    text = json.dumps(identity, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]+", "_", source.name) or "data"
    return data_directory() / "converted" / f"{stem}-{key}.h5"


def converted(
    source: Source, about: Mapping[str, Any] | None = None, progress: bool = False
) -> Path:
    """Return the data set file of a source, made now if it is not there.

    Of two processes that want the same one, one converts while the other waits.

    Args:
        source: data of any format.
        about: further facts on the origin for the file's header.
        progress: show how far it is.

    Raises:
        UserError: the source is damaged, or the folder cannot be written to.
    """
    path = converted_path(source)
    with locked(path.with_name(f"{path.name}.lock"), f"converts {source.name}"):
        if path.exists():
            _LOG.info("data set %s is converted already: %s", source.name, path)
            return path
        _LOG.info("converting %s to %s", source.name, path)
        with progress_bar("converting", None, progress) as advance:
            header = convert(source, path, about=about, on_progress=advance)
    for reason, count in header.behavior["skipped"]["reasons"].items():
        _LOG.warning("%s: %d episodes were left out: %s", source.name, count, reason)
    return path
