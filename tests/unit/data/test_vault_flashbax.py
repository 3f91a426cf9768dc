"""flashbax itself reads the vaults we write, and we read those it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_fakes import SPEC, make_episodes

from mads4.data.dataset import Dataset
from mads4.data.formats.og_marl import open_og_marl
from mads4.data.formats.og_marl_write import write_og_marl

pytestmark = pytest.mark.slow  # JAX alone takes seconds to import

pytest.importorskip("flashbax")
pytest.importorskip("tensorstore")


def test_flashbax_reads_ours(tmp_path: Path) -> None:
    from flashbax.vault import Vault

    spec = replace(SPEC, name="rware", state_encoding="float")
    episodes = make_episodes(7, spec=spec)
    write_og_marl(tmp_path / "walk.vlt", spec, episodes, "Expert")
    vault = Vault("walk.vlt", rel_dir=str(tmp_path), vault_uid="Expert")
    read = vault.read().experience
    steps = sum(episode.length for episode in episodes)
    assert vault.vault_index == steps
    joined = Dataset.from_episodes(spec, episodes)
    for name, expected in {
        "observations": joined.observation,
        "actions": joined.action[..., None],
        "rewards": joined.reward[:, None].repeat(2, axis=1),
    }.items():
        found = np.asarray(read[name])
        assert found.dtype == (np.int32 if name == "actions" else np.float32)
        np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(read["infos"]["legals"][0], joined.available_actions)
    np.testing.assert_array_equal(read["infos"]["state"][0], joined.state[:, 0])
    ends = np.cumsum(joined.table.length) - 1
    terminals, truncations = np.asarray(read["terminals"]), np.asarray(read["truncations"])
    assert terminals.shape == (1, steps, 2) and terminals.sum() == 2 * len(ends)
    assert (terminals[0, ends] == 1).all()
    np.testing.assert_array_equal(truncations[0, ends, 0], joined.table.truncated)


@pytest.mark.parametrize("trailing", [True, False])
def test_we_read_what_flashbax_writes(tmp_path: Path, trailing: bool) -> None:
    import jax.numpy as jnp
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    spec = replace(SPEC, state_encoding="float")
    episodes = [replace(episode, metrics={}) for episode in make_episodes(9, spec=spec)]
    joined = Dataset.from_episodes(spec, episodes)
    last = np.zeros((joined.steps, 2), np.float32)
    last[np.cumsum(joined.table.length) - 1] = 1
    truncated = np.repeat(joined.table.truncated, joined.table.length)[:, None]
    action = joined.action.astype(np.int32)
    arrays = {
        "observations": joined.observation,
        "actions": action[..., None] if trailing else action,
        "rewards": joined.reward[:, None].repeat(2, axis=1),
        "terminals": last * ~truncated,
        "truncations": last * truncated,
        "infos": {"legals": joined.available_actions, "state": joined.state[:, 0]},
    }
    batched = {k: jnp.asarray(a)[None] for k, a in arrays.items() if k != "infos"}
    batched["infos"] = {k: jnp.asarray(a)[None] for k, a in arrays["infos"].items()}
    vault = Vault("walk.vlt", batched, rel_dir=str(tmp_path), vault_uid="Medium-Replay")
    state = TrajectoryBufferState(
        experience=batched, current_index=jnp.array(0), is_full=jnp.array(True)
    )
    half = joined.steps // 2  # in two parts, as a recording in progress is written
    vault.write(state, source_interval=(0, half))
    vault.write(state, source_interval=(half, joined.steps))
    recording = open_og_marl(tmp_path / "walk.vlt", spec)
    assert recording.spec == spec
    assert recording.skipped == {}
    read = Dataset.from_episodes(spec, recording.episodes())
    assert read.fingerprint == joined.fingerprint
