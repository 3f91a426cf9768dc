"""Typed settings, and the registries that find them by name.

A plug-in is one module: it defines a `Settings` schema, registered under the module's name, beside
what the schema builds. ``model=mlp`` therefore needs ``mads4/models/mlp.py`` and
``conf/model/mlp.yaml``, and nothing else knows that they exist.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mads4.errors import UserError, did_you_mean, first_line, require_choice

CONF = "mads4.conf"
"""Package of the YAML files: one folder per configuration group."""
CUSTOM = "custom"
"""Option of every group that takes a function of the user's own."""


def text(pattern: str, expected: str) -> Any:
    """Return a string field's pattern, with the words that error messages use for it."""
    return Field(pattern=f"^(?:{pattern})$", json_schema_extra={"expected": expected})


Positive: TypeAlias = Annotated[int, Field(ge=1)]
NotNegative: TypeAlias = Annotated[int, Field(ge=0)]
Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factory: TypeAlias = Annotated[
    str, text(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "package.module:function")
]
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


def lower(value: object) -> object:
    """Return text in lower case, anything else as it is."""
    return value.lower() if isinstance(value, str) else value


class Settings(BaseModel):
    """Base of all schemas: read-only, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


SettingsT = TypeVar("SettingsT", bound=Settings)


class Registry(Generic[SettingsT]):
    """The options of one configuration group, by name.

    Args:
        group: the group's name on the command line, for example ``model``.
        package: where the plug-ins are, one module or package each, for example ``mads4.models``.
    """

    def __init__(self, group: str, package: str) -> None:
        self.group = group
        self.package = package
        self.default: type[SettingsT] | None = None
        """Schema of modules and YAML files without one of their own; None if all need one."""
        self._schemas: dict[str, type[SettingsT]] = {}

    def register(self, name: str) -> Callable[[type[SettingsT]], type[SettingsT]]:
        """Return a class decorator that makes a schema the option `name`."""

        def add(schema: type[SettingsT]) -> type[SettingsT]:
            self._schemas[name] = schema
            return schema

        return add

    def schema(self, name: str) -> type[SettingsT]:
        """Return the schema of an option; its module is imported at its first use.

        Raises:
            UserError: there is no such option.
        """
        if name not in self._schemas and name.isidentifier():
            module = f"{self.package}.{name}"
            known = find_spec(module) is not None
            if known:
                import_module(module)
            if self.default is not None and (known or name in self.names()):
                self._schemas.setdefault(name, self.default)
        if name not in self._schemas:
            require_choice(self.group, name, self.names())
        return self._schemas[name]

    def names(self) -> list[str]:
        """Return the names of all options: the group's YAML files, and what was registered."""
        return sorted(shipped(self.group) | set(self._schemas))


def shipped(group: str) -> set[str]:
    """Return the options of a group that are YAML files of the package."""
    names = (entry.name for entry in (files(CONF) / group).iterdir())
    return {name.removesuffix(".yaml") for name in names if name.endswith(".yaml")}


def load(path: str, key: str) -> Callable[..., Any]:
    """Import the function or class `path`, ``package.module:name``, which the user has written.

    Args:
        path: what to import. Never take it from a file that the user did not write.
        key: the setting that it comes from, for error messages, for example ``env.factory``.

    Raises:
        UserError: it cannot be imported, or cannot be called.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise UserError(
            f"{key}: got '{path}', expected 'package.module:function', "
            "for example 'my_package.my_module:make'."
        )
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{key}: cannot import '{module_name}' (of '{path}'): {error}. Is it installed, "
            "or its folder on PYTHONPATH?"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        callables = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"{key}: '{module_name}' has no function '{name}'.{did_you_mean(name, callables)}"
        )
    made: Callable[..., Any] = function
    return made


def bind_factory(
    key: str, path: str, options: Mapping[str, Any], arguments: int | None
) -> Callable[..., Any]:
    """Import the user's function ``<group>.factory``; make sure that it takes its options.

    Args:
        key: the setting that names it, for error messages, for example ``model.factory``.
        path: the function, as for `load`.
        options: the user's keyword arguments, ``<group>.options``.
        arguments: the number of positional arguments that every factory of the group is given;
            None if the options are not known yet.

    Raises:
        UserError: the function cannot be imported, or refuses the options.
    """
    make = load(path, key)
    if arguments is not None:
        with suppress(ValueError):  # a function written in C may not say what it takes
            signature = inspect.signature(make)
            try:
                signature.bind(*[None] * arguments, **options)
            except TypeError as error:
                raise _refusal(key, path, options, error) from error
    return make


def call_factory(group: str, path: str, /, *arguments: Any, **options: Any) -> Any:
    """Return what the user's function ``<group>.factory`` makes with ``<group>.options``.

    Args:
        group: the configuration group, for example ``model``, for error messages.
        path: the function, as for `load`.
        arguments: what every factory of the group is given.
        options: the user's keyword arguments.

    Raises:
        UserError: the function cannot be imported, or refuses the options.
    """
    key = f"{group}.factory"
    make = bind_factory(key, path, options, len(arguments))
    try:
        return make(*arguments, **options)
    except (TypeError, ValidationError) as error:
        raise _refusal(key, path, options, error) from error


def _refusal(key: str, path: str, options: Mapping[str, Any], error: Exception) -> UserError:
    group, is_factory, _ = key.partition(".factory")
    who = f"{group}.options: {key}={path}" if is_factory else f"{key}: {path}"
    given = "{" + ", ".join(f"{name}: {value}" for name, value in options.items()) + "}"
    return UserError(f"{who} refuses {given}: {first_line(error)}")
