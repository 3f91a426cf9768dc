"""Environments by name, and users' own by import path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from mads4.envs.protocol import EnvOptions, MultiAgentEnv
from mads4.envs.vector import Supervision, VectorEnv
from mads4.errors import UserError, did_you_mean
from mads4.types import EnvSpec

NAMES = ("matrix_game", "rware", "smac", "smaclite", "smax", "custom")
METHODS = ("reset", "step", "render", "close")


def make_env(name: str, *, factory: str | None = None, **arguments: Any) -> MultiAgentEnv:
    """Return a new environment.

    Args:
        name: one of `NAMES`; ``custom`` for an environment of the user's own.
        factory: for ``custom``, ``package.module:function``; it gets the entries of `options`
            as keyword arguments.
        arguments: those of the environment's class, such as `mads4.envs.rware.RwareEnv`; for
            ``custom`` `options`.

    Raises:
        UserError: an unknown name, a factory that cannot be imported or fails,
            or one whose result is not a `MultiAgentEnv`.
    """
    if name == "rware":
        from mads4.envs.rware import RwareEnv  # other environments do not need it

        return RwareEnv(**arguments)
    if name == "matrix_game":
        from mads4.envs.matrix_game import MatrixGame

        return MatrixGame(**arguments)
    if name == "smac":
        from mads4.envs.smac.env import SmacEnv

        return SmacEnv(**arguments)
    if name == "smaclite":
        from mads4.envs.smac.lite import SmacliteEnv

        return SmacliteEnv(**arguments)
    if name == "smax":
        from mads4.envs.smax.battle import SmaxEnv  # JAX takes seconds to import

        return SmaxEnv(**arguments)
    if name == "custom":
        return _make_custom(factory, **arguments)
    near = did_you_mean(name, NAMES)
    raise UserError(f"env: got '{name}', expected one of {', '.join(NAMES)}.{near}")


@dataclass(frozen=True)
class EnvFactory:
    """Makes environments that are all alike; picklable, so that worker processes can call it."""

    name: str = "rware"
    """One of `NAMES`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `make_env`."""
    supervision: Supervision | None = None
    """How to look after the environments, if each of them needs a process of its own."""

    def __call__(self) -> MultiAgentEnv:
        """Return a new environment."""
        return make_env(self.name, **self.arguments)

    def make_many(self, size: int) -> VectorEnv | None:
        """Return `size` environments that are stepped in one call, None if they cannot be."""
        if self.name != "smax":
            return None
        from mads4.envs.smax.battle import SmaxVector

        return SmaxVector(size, **self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, for checkpoints."""
        supervision = self.supervision and asdict(self.supervision)
        return {
            "name": self.name,
            "arguments": dict(self.arguments),
            "supervision": supervision,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvFactory:
        """Return the maker that `to_dict` has described."""
        supervision = values.get("supervision")  # checkpoints from before there was any lack it
        rules = Supervision(**supervision) if supervision else None
        return cls(values["name"], values["arguments"], rules)


def _make_custom(factory: str | None, options: EnvOptions | None = None) -> MultiAgentEnv:
    make = _import_function(factory or "")
    try:
        env = make(**(options or {}))
    except TypeError as error:
        raise UserError(f"env.options: {factory} refuses {options or {}}: {error}") from error
    missing = _missing(env)
    if missing:
        raise UserError(
            f"env.factory: what {factory} returns ({type(env).__name__}) lacks "
            f"{', '.join(missing)}; see mads4.envs.protocol.MultiAgentEnv."
        )
    checked: MultiAgentEnv = env
    return checked


def _import_function(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name:
        raise UserError(
            f"env.factory: got '{path}', expected 'package.module:function', "
            "for example 'my_package.my_env:make'."
        )
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"env.factory: cannot import '{module_name}' (of '{path}'): {error}. Is it installed, "
            "or its folder on PYTHONPATH?"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"env.factory: '{module_name}' has no function '{function_name}'."
            f"{did_you_mean(function_name, functions)}"
        )
    made: Callable[..., Any] = function
    return made


def _missing(env: object) -> list[str]:
    """Return in words what `env` lacks of the protocol."""
    lacks = [f"a method {name}()" for name in METHODS if not callable(getattr(env, name, None))]
    if not isinstance(getattr(env, "spec", None), EnvSpec):
        lacks.insert(0, "a property spec that is a mads4.types.EnvSpec")
    return lacks
