"""Check a command line before anything is created, then let Hydra run it.

Hydra stops at the first mistake, with a traceback, after it has made the run directory. Here every
job of the command line is composed and parsed beforehand, and all mistakes are reported together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mads4.config import AnyConfig, CollectConfig, Config, EvaluateConfig, ProbeConfig
from mads4.config.messages import suggest
from mads4.config.validation import ConfigError, parse
from mads4.errors import UserError, did_you_mean
from mads4.settings import CONF, Settings

T = TypeVar("T")
Words: TypeAlias = list[tuple[Override, str]]

SCHEMAS: dict[str, type[AnyConfig]] = {
    "train": Config,
    "collect": CollectConfig,
    "evaluate": EvaluateConfig,
    "probe": ProbeConfig,
}


@dataclass(frozen=True)
class Plan:
    """A command line that has been found right."""

    command: str
    overrides: list[str]
    """What Hydra is given to run."""
    configs: list[AnyConfig]
    """What each job will be given."""
    directory_key: str
    """The setting that names the directory."""
    directory: Path
    """The run directory, or the sweep's."""
    directory_given: bool
    """Whether the user named the directory."""
    multirun: bool
    config_dir: str | None
    """Folder with options of the user's own."""
    shown: str | None
    """Part of the configuration that is only shown (``--cfg``); None to run."""


def to_config(composed: DictConfig, command: str, overrides: Iterable[str]) -> AnyConfig:
    """Convert Hydra's configuration once, with interpolations resolved, to a typed one.

    What an experiment sets for another option of a group than the user chose in the `overrides` is
    left out.
    """
    foreign = {"hydra"} | (set(Config.model_fields) - set(SCHEMAS[command].model_fields))
    written = [text.lstrip("+~").partition("=") for text in overrides]
    given = {key: value for key, _, value in written if "." in key}  # model=mlp only chooses
    return parse(_values(composed, set(composed) - foreign), SCHEMAS[command], given)


def _values(composed: DictConfig, keys: Iterable[Any]) -> dict[str, Any]:
    """Return some of a configuration's settings as plain values, in its order."""
    chosen = [str(key) for key in composed if key in set(keys)]
    values = OmegaConf.to_container(OmegaConf.masked_copy(composed, chosen), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def selected(command: str, argv: Sequence[str]) -> dict[str, Any]:
    """Return the values that a command line composes, unchecked.

    Raises:
        ConfigError: an option of a group that does not exist.
    """
    args, problems = _arguments(argv)
    with open_hydra(command, args.config_dir) as hydra:
        words = _read(args.overrides, hydra.config_loader, problems)
        plain = [text for word, text in words if not word.is_sweep_override()]
        composed = None if problems else _compose(hydra, command, plain, problems)
        if composed is None:
            raise ConfigError(problems)
        return _values(composed, SCHEMAS[command].model_fields)


def check(command: str, argv: Sequence[str]) -> Plan:
    """Compose and parse every job that `argv` asks for.

    Raises:
        ConfigError: one line per mistake.
    """
    args, problems = _arguments(argv)
    with open_hydra(command, args.config_dir) as hydra:
        words = _read(args.overrides, hydra.config_loader, problems)
        if problems and not words:
            raise ConfigError(problems)  # the shipped configuration need not be checked
        problems += _misplaced(words, command, args.multirun)
        fixed = [text for word, text in words if not word.is_sweep_override()]
        base = _compose(hydra, command, fixed, problems)
        jobs = _jobs(base, words, hydra.config_loader) if args.multirun and base else [fixed]
        configs = []
        for job in jobs:
            composed = base if job == fixed else _compose(hydra, command, job, problems)
            if composed is None:  # report what the schema finds wrong with the rest, too
                rest = [text for text in job if not text.startswith(("hydra.", "~"))]
                composed = _compose(hydra, command, rest, problems)
            config = composed and _attempt(problems, to_config, composed, command, job)
            configs += [config] if config else []
        key = "hydra.sweep.dir" if args.multirun else "hydra.run.dir"
        directory = base and _attempt(problems, OmegaConf.select, base, key)
    if problems or directory is None:
        raise ConfigError(problems)
    opened = tuple(f"{mapping}." for config in configs for mapping in _open_mappings(config))
    return Plan(
        command=command,
        overrides=[
            text if f"{word.key_or_group}.".startswith(opened) else str(word.input_line)
            for word, text in words
        ],
        configs=configs,
        directory_key=key,
        directory=Path(str(directory)),
        directory_given=any(word.key_or_group == key for word, _ in words),
        multirun=args.multirun,
        config_dir=args.config_dir,
        shown=args.cfg,
    )


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags and overrides of a command line, and what is wrong with the flags."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("--config-dir")
    known = "the flags are -m, --cfg job, --config-dir <folder> and --help"
    try:
        args, rest = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError([f"{error.argument_name}: {error.message}; {known}."]) from None
    problems = [f"{flag}: not a flag of this command; {known}." for flag in rest]
    if args.cfg and args.multirun:
        problems.append("--cfg: shows the configuration of one job; leave out -m")
    return args, problems


@contextmanager
def open_hydra(command: str, config_dir: str | None) -> Iterator[Hydra]:
    """Yield Hydra as its own main function sets it up: our groups, below a folder of the user's.

    Raises:
        UserError: there is no such folder, or Hydra cannot do what is asked of it.
    """
    version.setbase("1.3")
    search_path = create_automatic_config_search_path(None, None, f"pkg://{CONF}")
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder.")
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    try:
        yield Hydra.create_main_hydra2(task_name=command, config_search_path=search_path)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _compose(
    hydra: Hydra, command: str, overrides: list[str], problems: list[str]
) -> DictConfig | None:
    """Return a configuration, or None after noting why there is none."""
    return _attempt(
        problems,
        hydra.compose_config,
        config_name=command,
        overrides=overrides,
        run_mode=RunMode.RUN,
        from_shell=False,
        with_log_configuration=False,
    )


def _attempt(problems: list[str], action: Callable[..., T], *args: Any, **options: Any) -> T | None:
    """Return what `action` returns, or None after noting why it could not be done."""
    try:
        return action(*args, **options)
    except ConfigError as error:
        problems += error.problems
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(_one_line(error))
    return None


def _one_line(error: Exception) -> str:
    """Return what Hydra found wrong: the key and the first line of its explanation."""
    why = error.__cause__ if "Error merging" in str(error) and error.__cause__ else error
    text, key = str(why).partition("\n")[0].rstrip(), getattr(why, "full_key", None) or ""
    return f"{key}: {text}" if key not in text else text


def _read(texts: Iterable[str], loader: ConfigLoader, problems: list[str]) -> Words:
    """Parse overrides, and note what is wrong with them.

    Returns:
        The usable ones; each with what composes even if its key is unknown, so that the schema can
        check all keys at once.
    """
    parser = OverridesParser.create(config_loader=loader)
    words = []
    for text in texts:
        try:
            (word,) = parser.parse_overrides([text])
        except OverrideParseException as error:
            problems.append(f"{text}: cannot be read as key=value ({_one_line(error)})")
            continue
        options = loader.get_group_options(word.key_or_group)
        if wrong := _wrong_options(word, options):
            problems += wrong
        else:
            is_known = options or word.is_hydra_override() or text[0] in "+~"
            words.append((word, text if is_known else f"++{text}"))
    return words


def _misplaced(words: Words, command: str, multirun: bool) -> Iterator[str]:
    """Yield a line for each sweep without -m, and each setting of training in another command."""
    allowed = set(SCHEMAS[command].model_fields)
    for word, _ in words:
        key, top = word.key_or_group, word.key_or_group.partition(".")[0]
        if top in Config.model_fields and top not in allowed:
            yield f"{key}: not a setting of this command.{suggest(top, allowed)}"
        if word.is_sweep_override() and not multirun:
            yield f"{word.input_line}: several values; add -m to run one job for each"
        if key == "hydra.mode":
            yield "hydra.mode: not a setting of mads4; add -m to run several jobs"


def _wrong_options(override: Override, options: list[str]) -> list[str]:
    """Return one line for each option of a group that does not exist."""
    if not options or override.is_delete():
        return []
    values = (
        list(override.sweep_string_iterator())
        if override.is_discrete_sweep()
        else [override.get_value_element_as_str()]
    )
    return [
        f"{override.key_or_group}: got '{value}', expected one of {', '.join(sorted(options))}."
        f"{did_you_mean(value, options)}"
        for value in values
        if value not in options and not value.startswith("[")
    ]


def _jobs(base: DictConfig, words: Words, loader: ConfigLoader) -> list[list[str]]:
    """Return the overrides of each job of a sweep, as Hydra's basic sweeper will make them."""
    sweeper = base.hydra.sweeper
    if not str(sweeper._target_).endswith("BasicSweeper"):
        return []
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides([*params, *(text for _, text in words)])
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


def _open_mappings(settings: Settings, above: str = "") -> Iterator[str]:
    """Yield the keys of mappings to which the user adds keys; Hydra wants a ``++`` for that."""
    for name, value in settings:
        if isinstance(value, Settings):
            yield from _open_mappings(value, f"{above}{name}.")
        elif isinstance(value, Mapping):
            yield f"{above}{name}"
