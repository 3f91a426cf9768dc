"""OG-MARL's recordings (Formanek et al. 2023): flashbax vaults, ``<scenario>.vlt/<uid>/``.

T steps of all episodes one after another, n agents, A actions::

    observations  (1, T, n, d)            infos/legals  (1, T, n, A)   optional: all actions allowed
    actions       (1, T, n) or (1, T, n, 1)  infos/state   (1, T, s)   optional, or (1, T, n, s)
    rewards       (1, T, n)               truncations   (1, T, n)      optional
    terminals     (1, T, n)

What the layout leaves open is decided as follows and recorded in the source's ``origin``:

* An episode ends at the first step at which every agent is terminal or truncated. Steps after the
  last end belong to an episode whose end was not recorded; they are skipped and reported.
* An episode is truncated if any agent is truncated at its last step, else terminated. In vaults
  without ``truncations`` an episode that lasts the limit is truncated.
* The limit is not in the layout: it is the environment's, unless some episode is longer; without
  an environment it is the longest episode's length.
* Where all agents have the same reward at all steps, that is the team's. Otherwise the team's is
  their sum, or optionally their mean, which OG-MARL's own evaluation reports.
* Without ``infos/state`` the state is all agents' observations, one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mads4.data.content import Array
from mads4.data.formats.base import Format, Layout, axis_lengths, names_of
from mads4.data.formats.og_marl_write import write_og_marl
from mads4.data.formats.vault import METADATA, Vault, recording_folder
from mads4.data.registry import Entry
from mads4.data.settings import DATASETS, RecordedDataset
from mads4.errors import UserError, did_you_mean
from mads4.types import EnvSpec, Episode, FloatArray

READER_VERSION = 1
TEAM_REWARDS = ("sum", "mean")
BLOCK_BYTES = 1 << 25
"""Approximate bytes per read."""

_NUMBERS = "fiub"


@DATASETS.register("og_marl")
class OgMarlDataset(RecordedDataset):
    """A data set in OG-MARL's layout: a vault, `<scenario>.vlt/<uid>`."""

    name: Literal["og_marl"] = "og_marl"
    """Kind of data set."""
    uid: str | None = None
    """Which recording of the vault, for example Good; null for the one that `quality` names."""
    team_reward: Literal["sum", "mean"] = "sum"
    """Team reward where agents have different rewards: their sum or mean."""

    def reader_options(self, entry: Entry | None) -> dict[str, Any]:
        """Return the recording's uid and the rule for the team's reward."""
        return {"uid": self.uid or (entry and entry.uid), "team_reward": self.team_reward}


def open_og_marl(
    path: Path | str, env: EnvSpec | None = None, uid: str | None = None, team_reward: str = "sum"
) -> VaultSource:
    """Open a recording of a vault.

    Args:
        path: ``<scenario>.vlt``, or the uid's folder in it.
        env: the environment that the data were recorded in, for what the layout does not hold.
        uid: which of the vault's recordings, in any case; needed if it has several.
        team_reward: ``sum`` or ``mean``, where agents have different rewards.

    Raises:
        UserError: an unknown uid, or a vault that is damaged or of another layout.
    """
    if team_reward not in TEAM_REWARDS:
        raise UserError(
            f"team_reward is '{team_reward}', allowed are {', '.join(TEAM_REWARDS)}."
            f"{did_you_mean(team_reward, TEAM_REWARDS)}"
        )
    folder = recording_folder(Path(path).expanduser(), uid)
    vault = Vault.open(folder)
    size = axis_lengths(vault.facts(), _layout(vault), vault.label)
    ends = _ends(vault)
    if "A" not in size:
        size["A"] = env.n_actions if env else ends.highest_action + 1
    rule = "copies" if ends.copies else team_reward
    scenario = folder.parent.name.removesuffix(".vlt")
    return VaultSource(
        name=f"{scenario}-{folder.name}",
        spec=_spec(vault, size, int(ends.length.max()), env),
        origin=_origin(vault, scenario, rule),
        files=tuple(sorted(file for file in folder.rglob("*") if file.is_file())),
        skipped=ends.skipped,
        vault=vault,
        ends=ends,
        team_reward=rule,
    )


@dataclass
class VaultSource:
    """A `Source` in a vault."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    files: tuple[Path, ...]
    skipped: dict[str, str]
    vault: Vault
    ends: _Ends
    team_reward: str

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one after another, reading as many at once as fit a block."""
        names = [name for name in _layout(self.vault) if name not in ("terminals", "truncations")]
        state_dtype = np.dtype(np.uint8 if self._binary() else np.float32)
        room = max(1, BLOCK_BYTES // self.vault.row_bytes(names))
        stop = np.cumsum(self.ends.length)
        start = stop - self.ends.length
        first = 0
        while first < len(stop):
            last = max(first + 1, int(np.searchsorted(stop, start[first] + room, "right")))
            base = int(start[first])
            block = self.vault.read(names, base, int(stop[last - 1]))
            for index in range(first, last):
                rows = slice(int(start[index]) - base, int(stop[index]) - base)
                yield self._episode({k: a[rows] for k, a in block.items()}, index, state_dtype)
            first = last

    def _episode(self, steps: dict[str, Array], index: int, state_dtype: np.dtype) -> Episode:
        length = int(self.ends.length[index])
        truncated = self.ends.truncated(index, self.spec.episode_limit)
        with np.errstate(over="ignore", invalid="ignore"):  # the store checks the values
            observation = steps["observations"].astype(np.float32)
            legals = steps.get("infos.legals")
            shape = (length, self.spec.n_agents, self.spec.n_actions)
            return Episode(
                observation=observation,
                state=_state(steps.get("infos.state"), observation).astype(state_dtype),
                available_actions=np.ones(shape, bool) if legals is None else legals != 0,
                action=steps["actions"].reshape(shape[:2]).astype(np.int64),
                reward=team_rewards(steps["rewards"], self.team_reward),
                terminated=not truncated,
                truncated=truncated,
                seed=index,
            )

    def _binary(self) -> bool:
        """Whether all states' features are 0 or 1; stops reading where one is not."""
        name = "infos.state" if "infos.state" in self.vault.arrays else "observations"
        steps = int(self.ends.length.sum())
        return all(
            bool(((rows[name] == 0) | (rows[name] == 1)).all())
            for _, rows in _blocks(self.vault, [name], steps)
        )


@dataclass
class _Ends:
    """Ends of the episodes, and other facts about all steps that are needed in advance."""

    length: Array
    """(E,) int64, steps of each episode."""
    flagged: Array | None
    """(E,) whether an agent was truncated at the last step; None where that is not recorded."""
    copies: bool
    """Whether all agents have the same reward at all steps."""
    highest_action: int
    skipped: dict[str, str] = field(default_factory=dict)

    def truncated(self, index: int, limit: int) -> bool:
        """Return whether a time limit, not the task, ended an episode."""
        if self.flagged is not None:
            return bool(self.flagged[index])
        return bool(self.length[index] >= limit)


def team_rewards(rewards: Array, rule: str) -> FloatArray:
    """Return the team's reward (T,) float32 from the agents' (T, n): copies, sum or mean."""
    if rule == "copies":
        return rewards[:, 0].astype(np.float32)
    total: FloatArray = rewards.sum(axis=1, dtype=np.float64)
    return (total / (rewards.shape[1] if rule == "mean" else 1)).astype(np.float32)


def _layout(vault: Vault) -> Layout:
    """Return the expected layout of the vault's arrays, in the variant that it has."""
    facts = vault.facts()
    needed = ("observations", "actions", "rewards", "terminals")
    missing = [name for name in needed if name not in facts]
    if missing:
        raise UserError(
            f"{vault.folder} is not a recording of OG-MARL: it lacks {', '.join(missing)}. "
            f"It has {', '.join(sorted(facts))}."
        )
    action_axes = ("T", "n", "1") if len(facts["actions"][1]) == 3 else ("T", "n")
    state_axes = ("T", "n", "s") if len(facts.get("infos.state", (0, ()))[1]) == 3 else ("T", "s")
    layout: Layout = {
        "observations": (_NUMBERS, ("T", "n", "d")),
        "actions": ("iu", action_axes),
        "rewards": (_NUMBERS, ("T", "n")),
        "terminals": (_NUMBERS, ("T", "n")),
        "truncations": (_NUMBERS, ("T", "n")),
        "infos.legals": (_NUMBERS, ("T", "n", "A")),
        "infos.state": (_NUMBERS, state_axes),
    }
    return {name: layout[name] for name in layout if name in facts}


def _blocks(vault: Vault, names: list[str], steps: int) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield (first step, arrays) of consecutive blocks of steps."""
    room = max(1, BLOCK_BYTES // vault.row_bytes(names))
    for first in range(0, steps, room):
        yield first, vault.read(names, first, min(first + room, steps))


def _ends(vault: Vault) -> _Ends:
    """Read flags, rewards and, without ``infos/legals``, actions of all steps."""
    names = [n for n in ("terminals", "truncations", "rewards") if n in vault.arrays]
    names += [] if "infos.legals" in vault.arrays else ["actions"]
    last_steps, flags, copies, highest = [], [], True, 0
    for first, rows in _blocks(vault, names, vault.steps):
        truncated = rows.get("truncations", np.zeros((1, 1))) != 0
        at = np.flatnonzero(((rows["terminals"] != 0) | truncated).all(axis=1))
        last_steps.append(first + at)
        if "truncations" in rows:
            flags.append(truncated[at].any(axis=1))
        copies = copies and bool((rows["rewards"] == rows["rewards"][:, :1]).all())
        highest = max(highest, int(rows["actions"].max(initial=0)) if "actions" in rows else 0)
    stop = np.concatenate(last_steps) + 1
    if not len(stop):
        raise UserError(
            f"{vault.folder} has no whole episode: at none of its {vault.steps} steps all agents "
            "are terminal or truncated."
        )
    ends = _Ends(
        np.diff(stop, prepend=0), np.concatenate(flags) if flags else None, copies, highest
    )
    if stop[-1] < vault.steps:
        ends.skipped[f"steps {stop[-1]} to {vault.steps - 1}"] = "the episode's end is not recorded"
    return ends


def _state(state: Array | None, observation: FloatArray) -> Array:
    """Return the state (T, n or 1, s); without one, the agents' observations concatenated."""
    if state is None:
        return observation.reshape(len(observation), 1, -1)
    return state if state.ndim == 3 else state[:, None]


def _spec(vault: Vault, size: Mapping[str, int], longest: int, env: EnvSpec | None) -> EnvSpec:
    names = names_of(env)
    if "s" not in size:
        names["state_encoding"] = "observations"
    return EnvSpec(
        **names,
        n_agents=size["n"],
        obs_dim=size["d"],
        state_dim=size.get("s", size["n"] * size["d"]),
        n_actions=size["A"],
        episode_limit=max(longest, env.episode_limit if env else 0),
        state_per_agent="s" in size and len(vault.facts()["infos.state"][1]) == 3,
    )


def _origin(vault: Vault, scenario: str, rule: str) -> dict[str, Any]:
    """Return the provenance of the data, with the decisions listed above."""
    arrays = vault.arrays
    return {
        "format": "og_marl",
        "reader_version": READER_VERSION,
        "vault": scenario,
        "uid": vault.folder.name,
        "team_reward": rule,
        "truncation": "recorded" if "truncations" in arrays else "length reaches the limit",
        "state": "recorded" if "infos.state" in arrays else "observations of all agents",
        "available_actions": "recorded" if "infos.legals" in arrays else "all",
    }


def _matches(path: Path) -> bool:
    if not path.is_dir():
        return False
    named = path.suffix == ".vlt" or path.parent.suffix == ".vlt"
    return named or (path / METADATA).is_file() or any(path.glob(f"*/{METADATA}"))


FORMAT = Format(open_og_marl, _matches, "a vault <scenario>.vlt", write_og_marl)
