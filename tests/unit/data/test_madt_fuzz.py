"""Damaged and random files: an error that names the file, or episodes that are whole."""

from __future__ import annotations

import pickletools
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from madt_fakes import ACTIONS, AGENTS, OBSERVATION, STATE, nested

from mads4.data.content import step_columns
from mads4.data.formats.madt import open_madt
from mads4.data.formats.pickle_values import memory_limit
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode

SPEC = EnvSpec("", "", AGENTS, OBSERVATION, STATE, ACTIONS, 8, "", state_per_agent=True)
SECONDS = 5.0
"""Of the processor: far more than any file of kilobytes takes, and far less than a hang."""

KINDS: dict[str, Callable[[Path], None]] = {
    f"{form}{'-legacy' * legacy}-{protocol}": (
        lambda path, form=form, legacy=legacy, protocol=protocol: torch.save(
            nested(4, form=form),
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=not legacy,
        )
    )
    for form in ("lists", "arrays", "tensors")
    for legacy in (False, True)
    for protocol in (2, 5)
}


def read(path: Path) -> list[Episode] | None:
    """Read a folder of one file within bounds of time and memory; None where it is refused.

    What is read fits the spec that the reader gives, which is the data's, damaged or not.
    """
    size = path.stat().st_size
    start = time.process_time()
    tracemalloc.start()
    try:
        recording = open_madt(path.parent, SPEC)
        episodes = list(recording.episodes())
        for number, episode in enumerate(episodes):
            step_columns(recording.spec, episode, number)
        return episodes
    except UserError as error:
        assert str(path) in str(error) or path.name in str(error)
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= memory_limit(size)
        assert time.process_time() - start < SECONDS


def same(found: Episode, true: Episode) -> bool:
    return all(
        np.array_equal(getattr(found, name), getattr(true, name))
        for name in ("observation", "state", "available_actions", "action", "reward")
    ) and (found.terminated, found.truncated) == (true.terminated, true.truncated)


def check(path: Path, true: Episode) -> None:
    """A file with checksums gives the true episode or none; another, at least a whole one."""
    for episode in read(path) or ():
        if path.read_bytes().startswith(b"PK"):
            assert same(episode, true)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return content with a few bytes changed, or cut, or with a part repeated or left out."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    cut, hole, echo = content[:a], content[:a] + content[b:], content[:b] + content[a:]
    return bytes(rng.choice((changed, changed, changed, cut, hole, echo)))


def fuzz(folder: Path, kind: str, cases: int) -> None:
    path = folder / "0.pt"
    KINDS[kind](path)
    content = path.read_bytes()
    (true,) = read(path) or ()
    rng = random.Random(kind)
    for _ in range(cases):
        path.write_bytes(damaged(content, rng))
        check(path, true)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "every"), [("lists-2", 1), ("arrays-2", 3), ("tensors-2", 37)])
def test_flips_all_over_a_file(tmp_path: Path, kind: str, every: int) -> None:
    """What a checksum covers is found out, and the rest is not content."""
    path = tmp_path / "0.pt"
    KINDS[kind](path)
    content = path.read_bytes()
    (true,) = read(path) or ()
    for at in range(0, len(content), every):
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        check(path, true)


OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])
NAMES = st.sampled_from(
    [
        b"c" + name.replace(b" ", b"\n") + b"\n"
        for name in (
            *(b"numpy dtype", b"numpy ndarray", b"_codecs encode", b"builtins set", b"os system"),
            *(b"numpy.core.multiarray _reconstruct", b"numpy.core.multiarray scalar"),
            *(b"torch._utils _rebuild_tensor_v2", b"collections OrderedDict"),
        )
    ]
)
VALUES = st.sampled_from(
    [
        *(b"K\x01", b"X\x02\x00\x00\x00f4", b"X\x06\x00\x00\x00latin1", b"C\x04abcd"),
        *(b"J\xff\xff\xff\xff", b"G?\xf0\x00\x00\x00\x00\x00\x00", b"(" + b"K\x01" * 5 + b"e"),
        *(b"]", b"(", b")", b"}", b"\x85", b"\x86", b"\x87", b"t", b"R", b"b", b"\x94", b"e", b"a"),
        *(b"h\x00", b"h\x01", b"N", b"\x88"),
    ]
)
PROGRAMS = st.lists(OPCODES | NAMES | VALUES | st.binary(max_size=9), max_size=60).map(b"".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS)
def test_random_programs(tmp_path_factory: pytest.TempPathFactory, program: bytes) -> None:
    path = tmp_path_factory.mktemp("program") / "0.pt"
    path.write_bytes(b"\x80\x04" + program + b".")
    assert not read(path)


def content() -> st.SearchStrategy[Any]:
    number = st.integers(-3, 9) | st.floats() | st.booleans() | st.none() | st.text(max_size=2)
    row = st.lists(number, max_size=STATE) | st.just([1.0] * STATE) | st.just([1.0] * OBSERVATION)
    step = st.lists(row | number, max_size=7)
    return st.lists(st.lists(step | row, max_size=3), max_size=4) | st.dictionaries(st.text(), row)


@settings(max_examples=150, deadline=None)
@given(value=content())
def test_random_content(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("content") / "0.pt"
    torch.save(value, path)
    read(path)
