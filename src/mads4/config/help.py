"""`mads4 <command> --help`: the settings of the selected options, from the schemas themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mads4.config import Command
from mads4.config.compose import SCHEMAS, selected
from mads4.config.messages import expected, fields
from mads4.config.validation import concrete, groups
from mads4.settings import shipped

USAGE = {
    "train": """\
  mads4 train experiment=smoke
  mads4 train env.scenario=small-4ag trainer.steps=20000 seed=1
  mads4 train -m seed=0,1 model.message=none,output
  mads4 train resume=auto""",
    "collect": """\
  mads4 collect env.scenario=tiny-4ag dataset.quality=medium dataset.episodes=500""",
    "evaluate": """\
  mads4 evaluate checkpoint=outputs/mads4/<time> evaluator.episodes=100
  mads4 evaluate checkpoint=<file>.pt evaluator.target_returns=[20,1.2*max] evaluator.video=true""",
    "probe": """\
  mads4 probe checkpoint=outputs/mads4/<time>
  mads4 probe checkpoint=<file>.pt episodes=200 target_return=20 message_dropout=[0,0.5,1]""",
}

FLAGS = """\
  -m, --multirun    one job for each combination of comma-separated values
  --cfg job         print the composed configuration and stop
  --config-dir DIR  also take options of groups, DIR/<group>/<option>.yaml, from there"""


def text(command: str, argv: list[str], width: int = 100) -> str:
    """Return the help page of a Hydra application, for the options that `argv` selects.

    Args:
        command: ``train``, ``collect``, ``evaluate`` or ``probe``.
        argv: the words of the command line; ``env=smax --help`` shows the settings of SMAX.
        width: columns of the terminal.
    """
    values = selected(command, argv)
    schema, kinds, _ = concrete(SCHEMAS[command], values)
    width = min(max(width, 60), 110)
    lines = [f"usage: mads4 {command} [flags] [group=option ...] [key=value ...]"]
    lines += ["", "examples:", USAGE[command], "", "groups (group=option, * selected here):"]
    lines += _groups(command, schema, values, width)
    lines += [
        "",
        "settings (key=value) of the selected options; another option's: add it to this line",
    ]
    lines += _settings(schema, kinds, values, width)
    return "\n".join([*lines, "", "flags:", FLAGS, ""])


def _groups(
    command: str, schema: type[Command], values: Mapping[str, Any], width: int
) -> Iterator[str]:
    """Yield a line for each group: its options, the selected one marked."""
    names = [name for name in groups(SCHEMAS[command]) if name != "online_algorithm"]
    names += ["experiment"] if command in ("train", "collect") else []
    for name in names:
        chosen = (values.get(name) or {}).get("name")
        options = sorted(shipped(name))
        shown = ", ".join(f"{option}*" if option == chosen else option for option in options)
        yield from textwrap.wrap(
            shown, width, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14
        )


def _settings(
    schema: type[Command], kinds: Mapping[str, Any], values: Mapping[str, Any], width: int
) -> Iterator[str]:
    """Yield the settings, group by group: value, meaning, and what is allowed."""
    before, phases = "", (values.get("trainer") or {}).get("name")
    nodes = sorted(fields(schema).items(), key=lambda item: "." in item[0])
    for key, node in nodes:
        group, _, leaf = key.partition(".")
        unused = group == "online_algorithm" and phases != "offline_online"
        if unused or (leaf and not values.get(group)):
            continue
        if leaf and group != before:
            option = values[group].get("name")
            kind = kinds.get(group, schema.model_fields[group].annotation)
            about = str(kind.__doc__).partition("\n")[0]
            yield f"\n{group}={option}: {about}" if option else f"\n{group}: {about}"
            before = group
        if leaf == "name":
            continue
        yield f"  {key}={_shown(values, key)}"
        allowed = expected(node)
        words = " ".join(str(node.get("description", "")).split())
        words += "" if allowed in ("text", "true or false") else f" [{allowed}]"
        yield from textwrap.wrap(words, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _shown(values: Mapping[str, Any], key: str) -> str:
    """Return the value that is in force, as YAML writes it."""
    value: Any = values
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value}".replace("'", "") if isinstance(value, list) else f"{value}"
