"""Check a command line before anything is created.

Hydra stops at the first mistake, with a traceback, after it has made the run directory. Here every
job of the command line is composed and parsed beforehand, and all mistakes are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
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
from mads4.settings import CONF

SCHEMAS: dict[str, type[AnyConfig]] = {
    "train": Config,
    "collect": CollectConfig,
    "evaluate": EvaluateConfig,
    "probe": ProbeConfig,
}
FREE_FORM = (
    *("env.options.", "env.extra_options.", "dataset.options."),
    *("model.options.", "algorithm.options.", "online_algorithm.options."),
)
"""Mappings to which the user adds keys of their own; Hydra wants a ``++`` for that."""


@dataclass(frozen=True)
class Plan:
    """A command line that has been found right."""

    command: str
    flags: list[str]
    """Hydra's own flags, such as ``--cfg job`` or ``-m``."""
    overrides: list[str]
    configs: list[AnyConfig]
    """What each job will be given."""
    directory: Path
    """The run directory, or the sweep's."""
    directory_given: bool
    """Whether the user named the directory."""
    multirun: bool
    runs: bool
    """False when the command only shows something (``--cfg``, ``--info``)."""


def to_config(composed: DictConfig, command: str, overrides: Iterable[str]) -> AnyConfig:
    """Convert Hydra's configuration once, with interpolations resolved, to a typed one.

    What an experiment sets for another option of a group than the user chose in the `overrides` is
    left out.
    """
    foreign = {"hydra"} | (set(Config.model_fields) - set(SCHEMAS[command].model_fields))
    keys = [str(key) for key in composed if key not in foreign]  # experiments set more than needed
    values = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys), resolve=True)
    assert isinstance(values, dict)
    written = [text.lstrip("+~").partition("=") for text in overrides]
    given = {key: value for key, _, value in written if "." in key}  # model=mlp only chooses
    return parse({str(key): value for key, value in values.items()}, SCHEMAS[command], given)


def selected(command: str, argv: list[str]) -> dict[str, Any]:
    """Return the values that a command line composes, unchecked; the defaults' if it does not.

    Raises:
        ConfigError: an option of a group that does not exist.
    """
    args = get_args_parser().parse_intermixed_args(argv)
    with _hydra(command, args.config_dir) as hydra:
        words, problems = _read(args.overrides, hydra.config_loader)
        if problems:
            raise ConfigError(problems)
        plain = [word.composable for word in words if not word.override.is_sweep_override()]
        composed = _attempt(partial(_compose, hydra, command, plain), problems)
        if composed is None:
            raise ConfigError(problems)
        keys = [str(key) for key in composed if key in SCHEMAS[command].model_fields]
        values = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check(command: str, argv: list[str]) -> Plan:
    """Compose and parse every job that `argv` asks for.

    Raises:
        ConfigError: one line per mistake.
    """
    args = get_args_parser().parse_intermixed_args(argv)
    multirun = bool(args.multirun)
    with _hydra(command, args.config_dir) as hydra:
        words, problems = _read(args.overrides, hydra.config_loader)
        problems += _foreign(words, SCHEMAS[command])
        compose = partial(_compose, hydra, args.config_name or command)
        fixed = [word.composable for word in words if not word.override.is_sweep_override()]
        if not multirun:
            problems += [
                f"{word.text}: several values; add -m to run one job for each"
                for word in words
                if word.override.is_sweep_override()
            ]
        base = _attempt(partial(compose, fixed), problems)
        configs = []
        for job in _jobs(base, words, hydra.config_loader) if multirun and base else [fixed]:
            composed = _attempt(partial(compose, job), problems)
            if composed is None:  # report what the schema finds wrong with the rest, too
                rest = [text for text in job if not text.startswith(("hydra.", "~"))]
                composed = _attempt(partial(compose, rest), problems)
            config = composed and _attempt(partial(to_config, composed, command, job), problems)
            configs += [config] if config else []
    if problems or base is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    return Plan(
        command=command,
        flags=[word for word in argv if word not in args.overrides],
        overrides=[word.text for word in words],
        configs=configs,
        directory=Path(str(OmegaConf.select(base, key))),
        directory_given=any(word.override.key_or_group == key for word in words),
        multirun=multirun,
        runs=args.cfg is None and args.info is None and not args.shell_completion,
    )


@dataclass(frozen=True)
class _Word:
    """An override of the command line."""

    override: Override
    text: str
    """What Hydra is given to run."""
    composable: str
    """What composes even if the key is unknown, so that the schema can check all keys at once."""


@contextmanager
def _hydra(command: str, config_dir: str | None) -> Iterator[Hydra]:
    """Yield Hydra as its own main function sets it up: our groups, below a folder of the user's."""
    version.setbase("1.3")
    search_path = create_automatic_config_search_path(None, None, f"pkg://{CONF}")
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder.")
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    try:
        yield Hydra.create_main_hydra2(task_name=command, config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


def _compose(hydra: Hydra, config_name: str, overrides: list[str]) -> DictConfig:
    return hydra.compose_config(
        config_name=config_name,
        overrides=overrides,
        run_mode=RunMode.RUN,
        from_shell=False,
        with_log_configuration=False,
    )


def _attempt(action: Any, problems: list[str]) -> Any:
    """Return what `action` returns, or None after noting why it could not be done."""
    try:
        return action()
    except ConfigError as error:
        problems += error.problems
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(" ".join(str(error).split()))
    return None


def _read(texts: Iterable[str], loader: ConfigLoader) -> tuple[list[_Word], list[str]]:
    """Parse overrides; return those that can be composed, and what is wrong with the others."""
    parser = OverridesParser.create(config_loader=loader)
    words, problems = [], []
    for text in texts:
        try:
            (override,) = parser.parse_overrides([text])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"{text}: cannot be read as key=value ({reason})")
            continue
        wrong = _wrong_options(override, loader)
        problems += wrong
        if not wrong:
            known = override.is_hydra_override() or loader.get_group_options(override.key_or_group)
            composable = text if known or text[0] in "+~" else f"++{text}"
            free = override.key_or_group.startswith(FREE_FORM)
            words.append(_Word(override, composable if free else text, composable))
    return words, problems


def _foreign(words: list[_Word], schema: type[AnyConfig]) -> list[str]:
    """Return one line for each setting of training that another command would not heed."""
    allowed = set(schema.model_fields)
    tops = [(word, word.override.key_or_group.partition(".")[0]) for word in words]
    return [
        f"{word.override.key_or_group}: not a setting of this command.{suggest(top, allowed)}"
        for word, top in tops
        if top in Config.model_fields and top not in allowed
    ]


def _wrong_options(override: Override, loader: ConfigLoader) -> list[str]:
    """Return one line for each option of a group that does not exist."""
    group = override.key_or_group
    options = loader.get_group_options(group)
    if not options or override.is_delete():
        return []
    values = (
        list(override.sweep_string_iterator())
        if override.is_discrete_sweep()
        else [override.get_value_element_as_str()]
    )
    return [
        f"{group}: got '{value}', expected one of {', '.join(sorted(options))}."
        f"{did_you_mean(value, options)}"
        for value in values
        if value != "null" and value not in options and not value.startswith("[")
    ]


def _jobs(base: DictConfig, words: list[_Word], loader: ConfigLoader) -> list[list[str]]:
    """Return the overrides of each job of a sweep, as Hydra's basic sweeper will make them."""
    sweeper = base.hydra.sweeper
    if not str(sweeper._target_).endswith("BasicSweeper"):
        return []
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    texts = params + [word.composable for word in words]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(texts)
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
