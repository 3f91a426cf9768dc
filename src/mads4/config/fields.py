"""The kinds of value that only configuration fields have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from mads4.settings import text


def lower(value: object) -> object:
    """Return text in lower case, anything else as it is."""
    return value.lower() if isinstance(value, str) else value


Device: TypeAlias = Annotated[str, text(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<index>")]
Name: TypeAlias = Annotated[
    str, text(r"\w[\w.-]*", "a folder's name: letters, digits, '_', '-' and '.'")
]
Target: TypeAlias = (
    Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[
        str,
        text(
            r"([+-]?(\d+\.?\d*|\.\d+) ?\* ?)?(max|mean|min)",
            "[number*]max, mean or min (for example 1.1*max)",
        ),
    ]
)
