"""The group ``env``: environments by name, and users' own by import path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from mads4.envs import requirements
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import Supervision, VectorEnv
from mads4.errors import UserError
from mads4.settings import CUSTOM, Factory, Registry, Settings, call_factory
from mads4.types import EnvSpec

METHODS = ("reset", "step", "render", "close")


class EnvSettings(Settings):
    """Base of the schemas in the group ``env``: each stands with its environment."""

    imports: ClassVar[str | None] = None
    """The setting, if any, that names code of the user's own, ``package.module:function``."""
    name: str
    """Environment family."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `make`."""
        return self.model_dump(exclude={"name"})

    def supervise(self) -> Supervision | None:
        """Return how to supervise environments that need a process each; None for no need."""
        return None

    def missing(self) -> list[str]:
        """Return one line, with its fix, for each thing that is not installed on this machine."""
        absent = requirements.missing(f"env={self.name}")
        return [f"env={self.name}: {absent}"] if absent else []

    @classmethod
    def make(cls, **arguments: Any) -> MultiAgentEnv:
        """Return a new environment.

        Raises:
            UserError: arguments that the environment does not accept.
        """
        raise NotImplementedError

    @classmethod
    def make_many(cls, size: int, **arguments: Any) -> VectorEnv | None:
        """Return `size` environments that are stepped in one call, None if there are none."""
        return None

    def problems(self, where: str) -> list[str]:
        """Return one line for each combination of settings that cannot work."""
        return []


ENVS: Registry[EnvSettings] = Registry("env", "mads4.envs")
"""The group ``env``."""


@ENVS.register(CUSTOM)
class CustomEnvConfig(EnvSettings):
    """An environment of the user's own."""

    imports = "factory"
    name: Literal["custom"] = "custom"
    """Environment family."""
    factory: Factory
    """Function `package.module:function` that returns a `mads4.envs.protocol.MultiAgentEnv`."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""

    @classmethod
    def make(cls, **arguments: Any) -> MultiAgentEnv:
        """Return what the factory returns, if it is an environment."""
        factory = arguments["factory"]
        env = call_factory("env", factory, **arguments.get("options", {}))
        lacks = [f"a method {name}()" for name in METHODS if not callable(getattr(env, name, None))]
        if not isinstance(getattr(env, "spec", None), EnvSpec):
            lacks.insert(0, "a property spec that is a mads4.types.EnvSpec")
        if lacks:
            raise UserError(
                f"env.factory: what {factory} returns ({type(env).__name__}) lacks "
                f"{', '.join(lacks)}; see mads4.envs.protocol.MultiAgentEnv."
            )
        checked: MultiAgentEnv = env
        return checked


def make_env(name: str, **arguments: Any) -> MultiAgentEnv:
    """Return a new environment.

    Args:
        name: an option of the group ``env``.
        arguments: those of its schema's `EnvSettings.make`.

    Raises:
        UserError: an unknown name, a factory that cannot be imported or fails,
            or one whose result is not a `MultiAgentEnv`.
    """
    return ENVS.schema(name).make(**arguments)


@dataclass(frozen=True)
class EnvFactory:
    """Makes environments that are all alike; picklable, so that worker processes can call it."""

    name: str = "rware"
    """An option of the group ``env``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `make_env`."""
    supervision: Supervision | None = None
    """How to supervise environments that need a process each; None for no need."""

    def __call__(self) -> MultiAgentEnv:
        """Return a new environment."""
        return make_env(self.name, **self.arguments)

    def make_many(self, size: int) -> VectorEnv | None:
        """Return `size` environments that are stepped in one call, None if they cannot be."""
        return ENVS.schema(self.name).make_many(size, **self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, for checkpoints."""
        return asdict(self)

    @classmethod
    def of(cls, settings: EnvSettings) -> EnvFactory:
        """Return the maker of the environments that `settings` describe."""
        return cls(settings.name, settings.arguments(), settings.supervise())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], allowed: str | None = None) -> EnvFactory:
        """Return the maker that `to_dict` has described, for example from a checkpoint.

        Args:
            values: from a file, whose author need not be trusted.
            allowed: function that the user names, too; no other one is imported.

        Raises:
            UserError: the file names a function of somebody's own other than `allowed`.
        """
        schema = ENVS.schema(values["name"])
        named = values["arguments"].get(schema.imports)
        if named and named not in (allowed, schema.model_fields[str(schema.imports)].default):
            raise UserError(
                f"The environment comes from '{named}', and code that a file names is not "
                f"imported. If you trust it, give env_factory={named}."
            )
        supervision = values.get("supervision")
        rules = Supervision(**supervision) if supervision else None
        return cls(values["name"], values["arguments"], rules)
