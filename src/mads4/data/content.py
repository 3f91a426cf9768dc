"""What a data set's arrays look like, whether an episode fits them, and their fingerprint.

Shared by data sets in memory and in files, so that both have the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.errors import UserError
from mads4.types import EnvSpec, Episode

Array = npt.NDArray[Any]

STEP_ARRAYS = ("observation", "state", "available_actions", "action", "reward")
"""Arrays with one row per step, concatenated over episodes."""

LAST_ARRAYS = ("last_observation", "last_state", "last_available_actions")
"""Arrays with one row per episode of which it is known what followed the last step."""

STATE_DTYPES = ("|u1", "<f4")
"""Binary states are kept as bytes: a quarter of the memory, and the sampler's time."""


def step_shapes(spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of every step array."""
    n = spec.n_agents
    return {
        "observation": (n, spec.obs_dim),
        "state": (n if spec.state_per_agent else 1, spec.state_dim),
        "available_actions": (n, spec.n_actions),
        "action": (n,),
        "reward": (),
    }


def step_dtypes(spec: EnvSpec, state_dtype: str) -> dict[str, str]:
    """Return the NumPy dtype string in which every step array is kept (flags as bytes)."""
    return {
        "observation": "<f4",
        "state": state_dtype,
        "available_actions": "|u1",
        "action": "|u1" if spec.n_actions <= 256 else "<i8",
        "reward": "<f4",
    }


def step_columns(spec: EnvSpec, episode: Episode, number: int) -> dict[str, Array]:
    """Return the step arrays of `episode` in the dtypes they are kept in.

    Args:
        spec: What the episode has to fit.
        episode: The episode, with T steps.
        number: Its place in the data set, for messages.

    Raises:
        MisfitError: when shapes, dtypes, lengths or values do not fit `spec`.
    """
    given = {name: np.asarray(getattr(episode, name)) for name in STEP_ARRAYS}
    length = len(given["action"])
    for name, shape in step_shapes(spec).items():
        if given[name].shape != (length, *shape):
            found = given[name].shape
            raise _misfit(number, f"{name} has shape {found}, the EnvSpec asks for {shape} a step")
    if not 1 <= length <= spec.episode_limit:
        raise _misfit(number, f"it has {length} steps, allowed are 1 to {spec.episode_limit}")
    state_dtype = given["state"].dtype.newbyteorder("<").str
    if state_dtype not in STATE_DTYPES:
        raise _misfit(
            number, f"state is {given['state'].dtype}, allowed are uint8 (0 or 1) and float32"
        )
    wrong = value_problem(spec, given)
    if wrong:
        raise _misfit(number, wrong)
    dtypes = step_dtypes(spec, state_dtype)
    return {name: np.ascontiguousarray(given[name], dtype=dtypes[name]) for name in STEP_ARRAYS}


def last_rows(spec: EnvSpec, episode: Episode, number: int) -> dict[str, Array] | None:
    """Return what followed the last step of `episode`, (1, …) in the dtypes it is kept in.

    Args:
        spec: What the episode has to fit.
        episode: The episode; its steps fit.
        number: Its place in the data set, for messages.

    Returns:
        The rows by name (`LAST_ARRAYS`); None where the episode has none.

    Raises:
        MisfitError: when shapes or values do not fit, or only some of the three arrays are there.
    """
    given = {name: getattr(episode, name) for name in LAST_ARRAYS}
    missing = [name for name, values in given.items() if values is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise _misfit(number, f"it has no {', '.join(missing)}, but others of its last rows")
    state_dtype = np.asarray(episode.state).dtype.newbyteorder("<").str
    shapes, dtypes = step_shapes(spec), step_dtypes(spec, state_dtype)
    found = {}
    for name in LAST_ARRAYS:
        values, kind = np.asarray(given[name]), name.removeprefix("last_")
        shape, dtype = shapes[kind], dtypes[kind]
        if values.shape != shape:
            raise _misfit(number, f"{name} has shape {values.shape}, the EnvSpec asks for {shape}")
        with np.errstate(invalid="ignore"):  # what is not finite is reported below, or here
            found[name] = np.ascontiguousarray(values[None], dtype=dtype)
        if dtype == "|u1" and (found[name][0] != values).any():
            raise _misfit(number, f"{name} has values other than 0 and 1")
    wrong = last_problem(found)
    if wrong:
        raise _misfit(number, wrong)
    return found


def last_problem(rows: Mapping[str, Array]) -> str | None:
    """Return what is wrong with the values of `LAST_ARRAYS`, or None."""
    for name, values in rows.items():
        if values.dtype.kind == "f" and not _all_finite(values):
            return f"{name} has values that are not finite"
        if values.dtype == np.uint8 and values.max(initial=0) > 1:
            return f"{name} is uint8 but has values other than 0 and 1"
    return None


def value_problem(spec: EnvSpec, steps: Mapping[str, Array]) -> str | None:
    """Return what is wrong with the values of step arrays of S rows, or None."""
    for name in ("observation", "state", "reward"):
        if steps[name].dtype.kind == "f" and not _all_finite(steps[name]):
            return f"{name} has values that are not finite"
    if steps["state"].dtype == np.uint8 and steps["state"].max(initial=0) > 1:
        return "state is uint8 but has values other than 0 and 1 (use float32 for those)"
    action = steps["action"]
    if action.min(initial=0) < 0 or action.max(initial=0) >= spec.n_actions:
        return f"action has values outside 0 to {spec.n_actions - 1}"
    chosen = action[..., None].astype(np.int64)
    if not np.take_along_axis(steps["available_actions"], chosen, axis=-1).all():
        return "an executed action is not among the available ones"
    return None


def _all_finite(values: Array) -> bool:
    """Return whether all values are finite; a sum says so five times faster, unless it overflows.

    NaN and infinity survive a sum, so a finite one settles it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


class MisfitError(UserError):
    """An episode that does not fit its specification."""


def _misfit(number: int, what: str) -> MisfitError:
    return MisfitError(f"Episode {number} cannot be stored: {what}. Fix the environment or reader.")


@dataclass(frozen=True)
class ArrayDigest:
    """Identity of one array, independent of how a file chunks and compresses it."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


class StreamDigest:
    """SHA-256 of an array that arrives in blocks along its first axis."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._hash = hashlib.sha256()
        self._rows = 0

    def update(self, block: Array) -> None:
        """Add the rows of `block`, which must be contiguous and keep dtype and row shape."""
        self._hash.update(block.data)
        self._rows += len(block)
        self._dtype, self._row_shape = block.dtype.str, block.shape[1:]

    def result(self) -> ArrayDigest:
        """Return the digest of all rows so far (at least one block)."""
        return ArrayDigest(self._dtype, (self._rows, *self._row_shape), self._hash.hexdigest())


def view_fingerprint(whole: str, episodes: npt.NDArray[np.int64]) -> str:
    """Return the identity of some episodes of a data set, without reading their content.

    Args:
        whole: fingerprint of the data set.
        episodes: (K,) which of its episodes, in the view's order.
    """
    return hashlib.sha256(whole.encode() + episodes.astype("<i8").tobytes()).hexdigest()


def digest(array: Array) -> ArrayDigest:
    """Return the digest of a whole contiguous array."""
    stream = StreamDigest()
    stream.update(array)
    return stream.result()


def content_fingerprint(
    spec: Mapping[str, Any], arrays: Mapping[str, ArrayDigest], metrics: Iterable[str]
) -> str:
    """Return the SHA-256 of a data set's content: spec, all arrays and the metrics' names.

    Name, behavior description, package version, chunking and compression do not enter.
    """
    parts = {name: [a.dtype, list(a.shape), a.sha256] for name, a in arrays.items()}
    content = {"spec": dict(spec), "arrays": parts, "metrics": sorted(metrics)}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
