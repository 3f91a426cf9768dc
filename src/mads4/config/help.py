"""`mads4 <command> --help`: every setting with its meaning, from the schemas themselves."""

from __future__ import annotations

import json
from importlib.resources import files

from mads4.config.compose import CONF, SCHEMAS
from mads4.config.messages import expectations, fields

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
  mads4 probe checkpoint=<file>.pt episodes=200 target=20 message_drop=[0,0.5,1]""",
}

FLAGS = """\
  -m, --multirun    one job for each combination of comma-separated values
  --cfg job         print the composed configuration and stop
  --hydra-help      Hydra's own flags"""


def text(command: str) -> str:
    """Return the help page of a Hydra application."""
    schema = SCHEMAS[command]
    groups = sorted({key.partition(".")[0] for key in fields(schema) if "." in key})
    names = [*groups, "experiment"] if command in ("train", "collect") else groups
    allowed = expectations(schema)
    choices = [
        f"  {name:<12}{', '.join(_options(name, allowed.get(f'{name}.name')))}" for name in names
    ]
    settings = []
    for key, node in sorted(fields(schema).items(), key=lambda item: "." in item[0]):
        settings += [f"  {key}: {allowed[key]}", f"      {_describe(node)}"]
    return "\n".join(
        [
            f"usage: mads4 {command} [flags] [group=option ...] [key=value ...]",
            "\nexamples:",
            USAGE[command],
            "\ngroups (group=option):",
            *choices,
            "\nsettings (key=value):",
            *settings,
            "\nflags:",
            FLAGS,
            "",
        ]
    )


def _options(group: str, allowed: str | None) -> list[str]:
    """Return a group's options, without those that are not for this command."""
    files_here = [path.name for path in (files(CONF) / group).iterdir()]
    names = [name.removesuffix(".yaml") for name in files_here if name.endswith(".yaml")]
    return sorted(name for name in names if allowed is None or name in allowed.split(" or "))


def _describe(node: object) -> str:
    """Return a field's docstring and default."""
    assert isinstance(node, dict)
    several = node.get("anyOf", [])
    described = [node, *(one for one in several if isinstance(one, dict))]
    words = " ".join(
        dict.fromkeys(
            one["description"].replace("\n", " ") for one in described if "description" in one
        )
    )
    defaults = [one["default"] for one in described if "default" in one]
    return f"{words} Default: {json.dumps(defaults[0])}" if defaults else words
