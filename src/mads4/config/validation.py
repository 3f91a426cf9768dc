"""From plain values to a typed configuration, with every mistake named at once."""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Collection, Iterable, Mapping
from functools import reduce
from typing import Any, TypeVar

from pydantic import ValidationError

from mads4.algorithms.mappo import MAPPOConfig
from mads4.config import (
    PLAYERS,
    Command,
    Config,
    EvaluatorConfig,
    GeneratedDataset,
    OfflineOnlineTrainerConfig,
    OfflineTrainerConfig,
    OnlineTrainerConfig,
    SmacEnv,
)
from mads4.config.messages import Node, choices, expected, fields, suggest
from mads4.errors import UserError, did_you_mean

ConfigT = TypeVar("ConfigT", bound=Command)

_LOG = logging.getLogger(__name__)

MISSING = "???"
"""How YAML marks a value that the user must give."""


class ConfigError(UserError):
    """A configuration that cannot be used; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def parse(
    values: Mapping[str, Any], schema: type[ConfigT], given: Mapping[str, str] | None = None
) -> ConfigT:
    """Return `values`, as they come from YAML, as an instance of `schema`.

    Args:
        values: nested settings.
        schema: of the command that they are for.
        given: the keys that the user wrote → the words of their values. What others set for
            another kind of their group (the width of an experiment's model, and the user chose
            another model) is left out, and said. None: all were written.

    Raises:
        ConfigError: one line per unknown key, wrong value or impossible combination.
    """
    values = _without_missing(values)
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        strange = [] if given is None else _of_another_kind(error, schema, given)
        if strange:
            return parse(_without(values, strange), schema, given)
        raise ConfigError(describe(error, schema, given)) from None
    problems = validate(config)
    if problems:
        raise ConfigError(problems)
    return config


def validate(config: Command) -> list[str]:
    """Return one line for each combination of values that cannot work together."""
    model = getattr(config, "model", None)
    problems = [] if model is None else model.problems("model")
    if isinstance(config, Config):
        problems += config.trainer.problems("trainer") + _validate_phases(config)
    evaluator, env = getattr(config, "evaluator", None), getattr(config, "env", None)
    if isinstance(evaluator, EvaluatorConfig) and isinstance(env, SmacEnv):
        problems += evaluator.video_problems(env.name)
    return problems + _validate_dataset(config)


def _validate_phases(config: Config) -> list[str]:
    """Return one line for each algorithm that does not fit the phase that it is chosen for."""
    trainer = config.trainer
    if isinstance(trainer, OfflineOnlineTrainerConfig):
        chosen = [("algorithm", "offline", trainer.offline.steps)]
        chosen.append(("online_algorithm", "online", trainer.online.iterations))
    elif isinstance(trainer, OfflineTrainerConfig):
        chosen = [("algorithm", "offline", trainer.steps)]
    else:
        chosen = [("algorithm", "online", trainer.iterations)]
    problems = []
    for key, phase, steps in chosen:
        algorithm = getattr(config, key)
        if algorithm.phase != phase:
            word = key if key == "algorithm" else f"algorithm@{key}"
            fitting = "bc or icq" if phase == "offline" else "mappo"
            problems.append(
                f"{word}: '{algorithm.name}' learns {algorithm.phase}, and trainer={trainer.name} "
                f"needs one that learns {phase}; use {word}={fitting}"
            )
        else:
            problems += algorithm.problems(key, steps)
    return problems


def _validate_dataset(config: Command) -> list[str]:
    dataset, trainer = getattr(config, "dataset", None), getattr(config, "trainer", None)
    if isinstance(trainer, OnlineTrainerConfig) and not _imitates(config):
        return []  # no data set is needed
    if not isinstance(dataset, GeneratedDataset) or dataset.behavior_policy == "random":
        return []
    if dataset.behavior_policy is not None and ":" in dataset.behavior_policy:
        return []  # the user's own
    env = getattr(config, "env", None)
    if env is None:
        return []
    players = PLAYERS.get(env.name, ())
    if dataset.behavior_policy in players or (players and dataset.behavior_policy is None):
        return []
    who = (
        "no expert can"
        if dataset.behavior_policy is None
        else f"'{dataset.behavior_policy}' cannot"
    )
    known = "".join(f"dataset.behavior_policy={name}, " for name in players)
    return [
        f"dataset.behavior_policy: {who} play env={env.name}; use {known}"
        "dataset.behavior_policy=random, dataset=file, dataset=alberdice or dataset=custom"
    ]


def _imitates(config: Command) -> bool:
    """Return whether an online training also clones recorded behavior."""
    algorithm = getattr(config, "algorithm", None)
    return isinstance(algorithm, MAPPOConfig) and algorithm.bc_coef > 0.0


def describe(
    error: ValidationError, schema: type[Command], given: Mapping[str, str] | None = None
) -> list[str]:
    """Return one line for each field that is wrong, in the user's words.

    Args:
        error: what pydantic found.
        schema: of the command.
        given: key → the words of its value, where the user wrote one.
    """
    nodes, tagged = fields(schema), _tagged(schema)
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        loc = item["loc"]
        kind = str(loc[1]) if loc[0] in tagged and len(loc) > 2 else None
        key = _dotted(loc if kind is None else (loc[0], *loc[2:]), nodes)
        if item["type"] == "union_tag_not_found":
            options = expected(nodes[f"{key}.name"]).replace(" or ", f" or {key}=")
            line = f"{key}: choose a kind first, {key}={options}"
        elif item["type"] == "extra_forbidden" and key in nodes:
            line = f"{key}: does not go with {loc[0]}={kind}; leave it out, or choose another "
            line += f"{loc[0]}."
        elif item["type"] == "extra_forbidden":
            line = f"{key}: unknown key.{suggest(key, nodes)}"
        elif item["type"].startswith("union_tag"):
            line = _wrong(f"{key}.name", item["ctx"].get("tag"), nodes.get(f"{key}.name"))
        else:
            # Other kinds of the group allow other values, which would be refused here.
            own = nodes if kind is None else fields(schema, {str(loc[0]): kind})
            if item["type"] == "missing":
                line = f"{key}: missing, expected {expected(own[key]).removesuffix(' or null')}"
            else:
                line = _wrong(key, item["input"], own.get(key))
            if item["type"] == "string_type":
                line += _quoted(key, item["input"], given or {})
        found.setdefault(key, line)
    return list(found.values())


def _wrong(key: str, value: object, node: Node | None) -> str:
    """Return what was given, what is allowed, and the nearest of the words that are."""
    line = f"{key}: got {_shown(value)}, expected "
    if node is None:
        return f"{line}a group of settings"
    near = did_you_mean(value, choices(node)) if isinstance(value, str) else ""
    return f"{line}{expected(node)}{'.' if near else ''}{near}"


def _quoted(key: str, value: object, given: Mapping[str, str]) -> str:
    """Return how to write a number where text is expected: 4.10 is read as 4.1, and no text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    words = given.get(key, "")
    words = words if words[:1].isdigit() else repr(value)
    return f"; a number is read as text in two pairs of quotes: {key}='\"{words}\"'"


def _of_another_kind(
    error: ValidationError, schema: type[Command], given: Iterable[str]
) -> list[tuple[str, ...]]:
    """Return the paths of settings nobody wrote that belong to another kind of their group."""
    allowed, tagged = fields(schema), _tagged(schema)
    groups = _groups(allowed)
    found = []
    for item in error.errors(include_url=False):
        group, *rest = map(str, item["loc"])
        key = ".".join([group, *rest[1:]])
        elsewhere = group in tagged and len(rest) > 1 and (key in allowed or key in groups)
        written = any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in given)
        if item["type"] == "extra_forbidden" and elsewhere and not written:
            _LOG.info("%s: does not go with %s=%s and is left out", key, group, rest[0])
            found.append((group, *rest[1:]))
    return found


def _without(values: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """Return nested `values` less those at `paths`."""
    kept = copy.deepcopy(dict(values))
    for *above, name in paths:
        del reduce(operator.getitem, above, kept)[name]
    return kept


def _tagged(schema: type[Command]) -> set[str]:
    """Return the groups of several kinds, in whose error paths pydantic names the kind."""
    return {
        name
        for name, node in schema.model_json_schema()["properties"].items()
        if any("discriminator" in one for one in (node, *node.get("anyOf", [])))
    }


def _groups(keys: Iterable[str]) -> set[str]:
    """Return ``a`` and ``a.b`` of ``a.b.c``: what holds settings and is none itself."""
    return {key[:cut] for key in keys for cut, char in enumerate(key) if char == "."}


def _dotted(loc: tuple[str | int, ...], allowed: Collection[str]) -> str:
    """Return ``group.key`` for pydantic's path, which also names union members and list items."""
    groups = _groups(allowed)
    steps: list[str] = []
    for index, step in enumerate(map(str, loc)):
        key = ".".join(steps)
        if key in allowed and key not in groups:
            break  # list items and the like
        is_known = f"{key}.{step}" in groups or f"{key}.{step}" in allowed
        if key in groups and not is_known and index < len(loc) - 1:
            continue  # the name of the alternative: env, rware, scenario
        steps.append(step)
    return ".".join(steps)


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__}"


def _without_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what YAML marks as ``???``, so that it is reported as missing."""
    return {
        key: _without_missing(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not (isinstance(value, str) and value == MISSING)
    }
