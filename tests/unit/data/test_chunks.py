"""Chunks encoded outside of HDF5 are what HDF5 itself would read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.data import chunks
from mads4.data.chunks import (
    Encoder,
    GrowingArray,
    decode,
    encode,
    fast,
    fletcher32,
    read_rows,
    run_lengths,
)
from mads4.data.content import digest

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "checksum": {"fletcher32": True},
    "shuffle": {"shuffle": True},
    "deflate": {"compression": "gzip", "compression_opts": 1},
    "all": {
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
        "fletcher32": True,
    },
}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    row=st.sampled_from([(), (1,), (2, 3)]),
    dtype=st.sampled_from(["<f4", "|u1", "<i8"]),
    filters=st.sampled_from(list(FILTERS)),
    chunk=st.integers(1, 50),
)
def test_hdf5_reads_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    row: tuple[int, ...],
    dtype: str,
    filters: str,
    chunk: int,
) -> None:
    rng = np.random.default_rng(len(lengths))
    blocks = [(100 * rng.random((length, *row))).astype(dtype) for length in lengths]
    whole = np.concatenate(blocks)
    path = tmp_path_factory.mktemp("chunks") / "x.h5"
    with h5py.File(path, "w", libver="v110") as file, Encoder.started() as encoder:
        stored = file.create_dataset(
            "x", (0, *row), dtype, maxshape=(None, *row), chunks=(chunk, *row), **FILTERS[filters]
        )
        array = GrowingArray(stored, encoder)
        for block in blocks:
            array.append(block)
            block[...] = 0  # callers may go on with their memory
        array.flush()
        encoder.finish()
        array.close()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][()], whole)
    assert array.stream.result() == digest(whole)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 400_000), kind=st.sampled_from(["random", "zeros", "ones", "words"]))
def test_the_checksum_is_hdf5_s(
    tmp_path_factory: pytest.TempPathFactory, length: int, kind: str
) -> None:
    rng = np.random.default_rng(length)
    content = {
        "random": rng.integers(256, size=length, dtype=np.uint8),
        "zeros": np.zeros(length, np.uint8),
        "ones": np.full(length, 255, np.uint8),
        "words": np.resize(np.array([0, 1, 255, 254], np.uint8), length),
    }[kind]
    with h5py.File(tmp_path_factory.mktemp("sum") / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=content, chunks=(length,), fletcher32=True)
        file.flush()
        _, chunk = stored.id.read_direct_chunk((0,))
    assert int.from_bytes(chunk[-4:], "little") == fletcher32(content)


def test_a_flipped_bit_is_found_by_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("x", (64,), "<f4", chunks=(64,), **FILTERS["all"])
        content = bytearray(encode(np.arange(64, dtype="<f4"), 64, (2, 1, 3), fast))
        content[len(content) // 2] ^= 1
        stored.id.write_direct_chunk((0,), bytes(content))
    with h5py.File(path) as file, pytest.raises(OSError, match="read data"):
        file["x"][()]


def test_the_first_chunk_decides_who_compresses(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = {
        "noise": (rng.normal(size=(1024, 16)).astype(np.float32), fast),
        "pattern": (np.tile(rng.normal(size=(4, 16)), (256, 1)).astype(np.float32), fast),
        "bits": (rng.random((1024, 64)) < 0.1, run_lengths),
    }
    size = {}
    for name, (rows, chosen) in data.items():
        rows = rows.view(np.uint8) if rows.dtype == bool else rows
        with h5py.File(tmp_path / name, "w") as file, Encoder.started() as encoder:
            shape, chunk = (0, *rows.shape[1:]), rows.shape
            stored = file.create_dataset(
                "x", shape, rows.dtype, maxshape=(None, *shape[1:]), chunks=chunk, **FILTERS["all"]
            )
            array = GrowingArray(stored, encoder)
            array.append(rows)
            encoder.finish()
            size[name] = stored.id.get_storage_size()
        assert size[name] == len(encode(rows, 1024, array.filters, chosen))
        other = run_lengths if chosen is fast else fast
        assert size[name] < 1.15 * len(encode(rows, 1024, array.filters, other))
    assert size["pattern"] < size["noise"] / 10


@given(content=st.binary(max_size=3000) | st.binary(max_size=8).map(lambda some: 500 * some))
def test_zlib_reads_what_was_compressed(content: bytes) -> None:
    for deflate in (fast, run_lengths):
        assert zlib.decompress(deflate(np.frombuffer(content, np.uint8))) == content


def test_other_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="filter 32000 cannot be encoded"):
        encode(np.zeros(3), 3, (h5py.h5z.FILTER_LZF,), fast)


def test_other_filters_are_refused_at_the_first_chunk(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file, Encoder.started() as encoder:
        stored = file.create_dataset(
            "x", (0,), "f4", maxshape=(None,), chunks=(4,), compression="lzf"
        )
        array = GrowingArray(stored, encoder)
        with pytest.raises(ValueError, match="cannot be encoded"):
            array.append(np.zeros(4, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 300),
    row=st.sampled_from([(), (1,), (2, 3)]),
    dtype=st.sampled_from(["<f4", "|u1", "<i8", ">f4"]),
    filters=st.sampled_from([*FILTERS, "other"]),
    chunk=st.integers(1, 50),
    wanted=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_rows_are_what_hdf5_wrote(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    row: tuple[int, ...],
    dtype: str,
    filters: str,
    chunk: int,
    wanted: tuple[int, int],
) -> None:
    content = (100 * np.random.default_rng(length).random((length, *row))).astype(dtype)
    chunk, (first, last) = min(chunk, length), sorted(min(end, length) for end in wanted)
    with h5py.File(tmp_path_factory.mktemp("rows") / "x.h5", "w") as file:
        options = {"compression": "lzf"} if filters == "other" else FILTERS[filters]
        stored = file.create_dataset("x", data=content, chunks=(chunk, *row), **options)
        file.flush()
        target = np.empty((last - first, *row), dtype)
        if len(target):
            read_rows(stored, first, target)
    np.testing.assert_array_equal(target, content[first:last])


def compressed(file: h5py.File, rows: int, filled: int) -> h5py.Dataset:
    stored = file.create_dataset("x", (rows,), "<f4", chunks=(64,), fillvalue=7, **FILTERS["all"])
    stored[:filled] = np.arange(filled)
    file.flush()
    return stored


def test_our_own_chunks_are_decoded_without_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h5py.Dataset, "read_direct", None)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        target = np.empty(200, "<f4")
        read_rows(compressed(file, 256, 256), 30, target)
    np.testing.assert_array_equal(target, np.arange(30, 230))


def test_holes_are_filled_by_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        target = np.empty(256, "<f4")
        read_rows(compressed(file, 256, 64), 0, target)
    np.testing.assert_array_equal(target, [*range(64), *[7] * 192])


def test_what_is_damaged_is_said_in_hdf5_s_words(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = compressed(file, 256, 256)
        _, content = stored.id.read_direct_chunk((64,))
        broken = bytearray(content)
        broken[len(broken) // 2] ^= 1
        stored.id.write_direct_chunk((64,), bytes(broken))
    with h5py.File(tmp_path / "x.h5") as file, pytest.raises(OSError, match="read data"):
        read_rows(file["x"], 0, np.empty(256, "<f4"))


@pytest.mark.parametrize(
    ("content", "codes", "what"),
    [
        (bytes(16), (32000,), "filters"),
        (bytes(12), (), "12 bytes, not 16"),
        (b"x" * 16, (h5py.h5z.FILTER_DEFLATE,), "compressed chunk is damaged"),
        (zlib.compress(bytes(8)), (h5py.h5z.FILTER_DEFLATE,), "8 bytes, not 16"),
        (zlib.compress(bytes(1 << 20)), (h5py.h5z.FILTER_DEFLATE,), "17 bytes, not 16"),
        (bytes(16) + b"abcd", (h5py.h5z.FILTER_FLETCHER32,), "checksum"),
    ],
)
def test_other_content_is_not_decoded(content: bytes, codes: tuple[int, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        decode(content, np.empty(4, "<f4"), codes)


def test_without_isa_l_zlib_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_zlib", zlib)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        target = np.empty(256, "<f4")
        read_rows(compressed(file, 256, 256), 0, target)
    np.testing.assert_array_equal(target, np.arange(256))
