"""From plain values to a typed configuration, with every mistake named at once."""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Collection, Iterable, Mapping
from functools import cache, reduce
from typing import Any, TypeVar, cast, get_args

from pydantic import ValidationError, create_model
from pydantic_core import PydanticUndefined

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
)
from mads4.config.commands import REGISTRIES
from mads4.config.messages import Node, choices, expected, fields, suggest
from mads4.envs.smac import SmacConfig
from mads4.errors import UserError, did_you_mean
from mads4.settings import Registry, Settings

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
        given: the keys that the user wrote → the words of their values. Other settings that belong
            to another option of their group (the width of an experiment's model, while the user
            chose another model) are dropped, with a log line. None: all were written.

    Raises:
        ConfigError: one line per unknown key, wrong value or impossible combination.
    """
    values = _without_missing(values)
    exact, problems = concrete(schema, values)
    try:
        found = exact.model_validate({k: v for k, v in values.items() if k not in problems})
    except ValidationError as error:
        strange = [] if given is None else _of_another_kind(error, exact, given)
        if strange:
            return parse(_without(values, strange), schema, given)
        raise ConfigError([*problems.values(), *describe(error, exact, given)]) from None
    if problems:
        raise ConfigError(list(problems.values()))
    plain = {name: getattr(found, name) for name in schema.model_fields}
    config = cast(ConfigT, schema.model_construct(**plain))  # equal to what Python code would make
    lines = validate(config)
    if lines:
        raise ConfigError(lines)
    return config


def concrete(
    schema: type[ConfigT], values: Mapping[str, Any] | None = None
) -> tuple[type[ConfigT], dict[str, str]]:
    """Return `schema` with the schemas of the chosen options in place of the groups' bases.

    Args:
        schema: of a command.
        values: the groups' settings, each with the option's ``name``; the default's if absent.

    Returns:
        The exact schema; and a line for each group whose option does not exist.
    """
    kinds: dict[str, type[Settings]] = {}
    problems = {}
    for group, registry in groups(schema).items():
        default = schema.model_fields[group].default
        chosen = (values or {}).get(group)
        if isinstance(chosen, Settings):
            kinds[group] = type(chosen)
        elif isinstance(chosen, Mapping):
            try:
                kinds[group] = _option(registry, chosen)
            except UserError as error:
                line = str(error)
                start = group if line.startswith(":") else f"{group}.name"
                problems[group] = start + line.removeprefix(registry.group)
        elif default is not None:
            kinds[group] = type(default)
    return _concrete(schema, tuple(kinds.items())), problems


def _option(registry: Registry[Any], values: Mapping[str, Any]) -> type[Settings]:
    """Return the schema of the option that a group's settings name."""
    name = values.get("name")
    if name is None:
        options = f" or {registry.group}=".join(registry.names())
        raise UserError(f": choose a kind first, {registry.group}={options}")
    schema: type[Settings] = registry.schema(str(name))
    return schema


@cache
def _concrete(
    schema: type[ConfigT], kinds: tuple[tuple[str, type[Settings]], ...]
) -> type[ConfigT]:
    fields: dict[str, Any] = {}
    for group, kind in kinds:
        field = copy.copy(schema.model_fields[group])
        if isinstance(field.default, Settings) and not isinstance(field.default, kind):
            field.default = PydanticUndefined
        fields[group] = (kind | None if field.default is None else kind, field)
    exact: type[ConfigT] = create_model(schema.__name__, __base__=schema, **fields)
    return exact


def groups(schema: type[Command]) -> dict[str, Registry[Any]]:
    """Return the fields of a command that are groups with several options, by name."""
    found = {}
    for name, field in schema.model_fields.items():
        members = (field.annotation, *get_args(field.annotation))
        bases = {inner for member in members for inner in (member, *get_args(member)[:1])}
        for base in bases & set(REGISTRIES):
            found[name] = REGISTRIES[base]
    return found


def validate(config: Command) -> list[str]:
    """Return one line for each combination of values that cannot work together."""
    problems: list[str] = []
    for group in ("env", "model", "trainer"):
        settings = getattr(config, group, None)
        problems += [] if settings is None else settings.problems(group)
    if isinstance(config, Config):
        problems += _validate_phases(config)
    evaluator, env = getattr(config, "evaluator", None), getattr(config, "env", None)
    if isinstance(evaluator, EvaluatorConfig) and isinstance(env, SmacConfig):
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
        assert isinstance(trainer, OnlineTrainerConfig)
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
        schema: of the command, as `concrete` returns it.
        given: key → the words of its value, where the user wrote one.
    """
    nodes = fields(schema)
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key = _dotted(item["loc"], nodes)
        group = key.partition(".")[0]
        if item["type"] == "extra_forbidden" and _elsewhere(schema, item["loc"]):
            option = nodes[f"{group}.name"]["const"]
            line = f"{key}: does not go with {group}={option}; leave it out, or choose another "
            line += f"{group}."
        elif item["type"] == "extra_forbidden":
            line = f"{key}: unknown key.{suggest(key, nodes)}"
        elif item["type"] == "missing":
            line = f"{key}: missing, expected {expected(nodes[key]).removesuffix(' or null')}"
        else:
            line = _wrong(key, item["input"], nodes.get(key))
        if item["type"] == "string_type":
            line += _quoted(key, item["input"], given or {})
        found.setdefault(key, line)
    return list(found.values())


def _elsewhere(schema: type[Command], loc: tuple[str | int, ...]) -> bool:
    """Whether another option of a group has the setting at pydantic's path `loc`."""
    registry = groups(schema.__mro__[1]).get(str(loc[0]))
    if registry is None or len(loc) < 2:
        return False
    return any(_has(registry.schema(name), loc[1:]) for name in registry.names())


def _has(schema: type[Settings], path: tuple[str | int, ...]) -> bool:
    """Whether a schema has the nested field `path`."""
    field = schema.model_fields.get(str(path[0]))
    if field is None or len(path) == 1:
        return field is not None
    inner = field.annotation
    return isinstance(inner, type) and issubclass(inner, Settings) and _has(inner, path[1:])


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
    """Return the paths of settings that were not written and belong to another option."""
    found = []
    for item in error.errors(include_url=False):
        path = tuple(map(str, item["loc"]))
        key = ".".join(path)
        written = any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in given)
        if item["type"] == "extra_forbidden" and not written and _elsewhere(schema, item["loc"]):
            _LOG.info("%s: does not go with the chosen %s and is left out", key, path[0])
            found.append(path)
    return found


def _without(values: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """Return nested `values` less those at `paths`."""
    kept = copy.deepcopy(dict(values))
    for *above, name in paths:
        del reduce(operator.getitem, above, kept)[name]
    return kept


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
