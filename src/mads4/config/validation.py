"""From plain values to a typed configuration, with every mistake named at once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ValidationError, create_model

from mads4.config import (
    PLAYERS,
    REGISTRIES,
    Command,
    Config,
    EvaluatorConfig,
    GeneratedDataset,
    OfflineOnlineTrainerConfig,
    OnlineTrainerConfig,
    registry,
)
from mads4.config.messages import Node, choices, expected, fields, suggest
from mads4.envs.smac import SmacConfig
from mads4.errors import UserError, did_you_mean
from mads4.settings import Settings, bind_factory

ConfigT = TypeVar("ConfigT", bound=Command)

_LOG = logging.getLogger(__name__)

MISSING = "???"
"""How YAML marks a value that the user must give."""


class ConfigError(UserError):
    """A configuration that cannot be used; `problems` has one line for each mistake."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


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
    exact, kinds, problems = concrete(schema, values)
    values = {key: value for key, value in values.items() if key not in problems}
    lines = [*problems.values(), *_of_other_options(values, kinds, given)]
    try:
        found = exact.model_validate(values)
    except ValidationError as error:
        raise ConfigError([*lines, *describe(error, exact, given or {})]) from None
    if not lines:
        plain = {name: getattr(found, name) for name in schema.model_fields}
        config = cast(ConfigT, schema.model_construct(**plain))  # equal to what Python code makes
        lines = validate(config)
    if lines:
        raise ConfigError(lines)
    return config


def concrete(
    schema: type[ConfigT], values: Mapping[str, Any] | None = None
) -> tuple[type[ConfigT], dict[str, type[Settings]], dict[str, str]]:
    """Return `schema` with the schemas of the chosen options in place of the groups' bases.

    Args:
        schema: of a command.
        values: the groups' settings, each with the option's ``name``; the default's if absent.

    Returns:
        The exact schema; group → schema of its option; group → what is wrong with the choice.
    """
    kinds: dict[str, type[Settings]] = {}
    problems = {}
    for group in groups(schema):
        chosen = (values or {}).get(group)
        if chosen is None:
            chosen = schema.model_fields[group].get_default(call_default_factory=True)
        if isinstance(chosen, Settings):
            kinds[group] = type(chosen)
        elif isinstance(chosen, Mapping):
            known, name = registry(group), chosen.get("name")
            if name is None:
                options = f" or {known.group}=".join(known.names())
                problems[group] = f"{group}: choose a kind first, {known.group}={options}"
                continue
            try:
                kinds[group] = known.schema(str(name))
            except UserError as error:
                problems[group] = f"{group}.name{str(error).removeprefix(known.group)}"
    return _concrete(schema, tuple(kinds.items())), kinds, problems


@cache
def _concrete(
    schema: type[ConfigT], kinds: tuple[tuple[str, type[Settings]], ...]
) -> type[ConfigT]:
    exact: dict[str, Any] = {}
    for group, kind in kinds:
        field = copy.copy(schema.model_fields[group])
        exact[group] = (kind if field.default_factory or field.default else kind | None, field)
    made: type[ConfigT] = create_model(schema.__name__, __base__=schema, **exact)
    return made


def groups(schema: type[Command]) -> list[str]:
    """Return the fields of a command that are groups with several options."""
    fields = schema.model_fields.items()
    return [k for k, v in fields if k in REGISTRIES and v.annotation is not GeneratedDataset]


def _of_other_options(
    values: dict[str, Any], kinds: Mapping[str, type[Settings]], given: Mapping[str, str] | None
) -> Iterator[str]:
    """Take the settings out of `values` that belong to another option of their group.

    Yields:
        A line for each of them that the user wrote.
    """
    for group, kind in kinds.items():
        settings = values.get(group)
        if not isinstance(settings, Mapping):
            continue
        values[group] = kept = dict(settings)
        for name in [name for name in settings if name not in kind.model_fields]:
            known, key = registry(group), f"{group}.{name}"
            if not any(name in known.schema(one).model_fields for one in known.names()):
                continue  # unknown everywhere
            del kept[name]
            if given is None or any(f"{one}.".startswith(f"{key}.") for one in given):
                option = f"{group}={kept['name']}"
                yield f"{key}: does not go with {option}; leave it out, or choose another {group}."
            else:
                _LOG.info("%s: does not go with the chosen %s and is left out", key, group)


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
    trainer: Any = config.trainer
    if isinstance(trainer, OfflineOnlineTrainerConfig):
        chosen = [("algorithm", "offline", trainer.offline.steps)]
        chosen.append(("online_algorithm", "online", trainer.online.iterations))
    elif isinstance(trainer, OnlineTrainerConfig):
        chosen = [("algorithm", "online", trainer.iterations)]
    else:
        chosen = [("algorithm", "offline", trainer.steps)]
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
    """Return a line if the environment cannot be played by whoever is to record the data set."""
    dataset, env = getattr(config, "dataset", None), getattr(config, "env", None)
    online = isinstance(getattr(config, "trainer", None), OnlineTrainerConfig)
    unused = online and not getattr(getattr(config, "algorithm", None), "bc_coef", 0.0)
    if unused or env is None or not isinstance(dataset, GeneratedDataset):
        return []
    player, players = dataset.behavior_policy, PLAYERS.get(env.name, ())
    if player in ("random", *players) or (players and player is None) or ":" in (player or ""):
        return []
    who = "no expert can" if player is None else f"'{player}' cannot"
    known = "".join(f"dataset.behavior_policy={name}, " for name in players)
    return [
        f"dataset.behavior_policy: {who} play env={env.name}; use {known}"
        "dataset.behavior_policy=random, dataset=file, dataset=alberdice or dataset=custom"
    ]


def factory_problems(config: Command) -> list[str]:
    """Return one line for each of the user's functions that cannot be called as configured.

    The functions are imported: they stand on the command line.
    """
    named: list[tuple[str, str | None, Mapping[str, Any], int | None]] = []
    for group in REGISTRIES:
        settings = getattr(config, group, None)
        path, options = getattr(settings, "factory", None), getattr(settings, "options", {})
        named.append((f"{group}.factory", path, options, getattr(settings, "factory_arguments", 0)))
    player = getattr(getattr(config, "dataset", None), "behavior_policy", None)
    named.append(("dataset.behavior_policy", player, {}, 0))
    named.append(("model_factory", getattr(config, "model_factory", None), {}, None))
    problems = []
    for key, path, options, arguments in named:
        try:
            if path and ":" in path:
                bind_factory(key, path, options, arguments)
        except UserError as error:
            problems.append(str(error))
    return problems


def describe(error: ValidationError, schema: type[Command], given: Mapping[str, str]) -> list[str]:
    """Return one line for each field that is wrong, in the user's words.

    Args:
        error: what pydantic found.
        schema: of the command, as `concrete` returns it.
        given: key → the words of its value, where the user wrote one.
    """
    nodes = fields(schema)
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        steps = [str(step) for step in item["loc"]]
        keys = [".".join(steps[: end + 1]) for end in range(len(steps))]
        key = next((key for key in keys if key in nodes), keys[-1])  # list items come below a key
        if item["type"] == "extra_forbidden":
            line = f"{key}: unknown key.{suggest(key, nodes)}"
        elif item["type"] == "missing":
            line = f"{key}: missing, expected {expected(nodes[key]).removesuffix(' or null')}"
        else:
            line = _wrong(key, item["input"], nodes.get(key))
        if item["type"] == "string_type":
            line += _quoted(key, item["input"], given)
        found.setdefault(key, line)
    return list(found.values())


def _wrong(key: str, value: object, node: Node | None) -> str:
    """Return what was given, what is allowed, and the nearest of the words that are."""
    shown = repr(value) if len(repr(value)) < 80 else f"a {type(value).__name__}"
    if value is None or isinstance(value, bool):
        shown = "null" if value is None else str(value).lower()
    line = f"{key}: got {shown}, expected "
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


def _without_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what YAML marks as ``???``, so that it is reported as missing."""
    return {
        key: _without_missing(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not (isinstance(value, str) and value == MISSING)
    }
