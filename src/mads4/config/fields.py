"""The kinds of value that configuration fields have, and what all sections share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from mads4.settings import Settings


def lower(value: object) -> object:
    """Return text in lower case, anything else as it is."""
    return value.lower() if isinstance(value, str) else value


def text(pattern: str, expected: str) -> Any:
    """Return a string field's rule, with the words that explain it when it is broken."""
    return Field(pattern=f"^(?:{pattern})$", json_schema_extra={"expected": expected})


Positive: TypeAlias = Annotated[int, Field(ge=1)]
NotNegative: TypeAlias = Annotated[int, Field(ge=0)]
Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factory: TypeAlias = Annotated[
    str, text(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "package.module:function")
]
Device: TypeAlias = Annotated[str, text(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<index>")]
Name: TypeAlias = Annotated[
    str, text(r"\w[\w.-]*", "a folder's name: letters, digits, '_', '-' and '.'")
]
Scenario: TypeAlias = Annotated[
    str,
    text(
        r"(tiny|small|medium|large)-[1-9]\d*ag(-easy|-hard)?",
        "{tiny|small|medium|large}-{k}ag[-easy|-hard], for example tiny-2ag",
    ),
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
Payoff: TypeAlias = Annotated[
    list[Any],
    Field(
        min_length=1,
        json_schema_extra={"expected": "nested lists of numbers, one axis per agent"},
    ),
]
SSMParameter: TypeAlias = Literal["A", "B", "C", "dt", "D"]


class Section(Settings):
    """Common rules: read-only, no unknown keys, no silent conversion of types."""
