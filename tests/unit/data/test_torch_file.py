"""Files of torch.save and pickle: what comes back, and that nothing in them runs."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.data.formats.pickle_values import SPARE_BYTES, Run, as_array
from mads4.data.formats.torch_file import load_data
from mads4.errors import UserError

RNG = np.random.default_rng(0)
PLAIN = [
    *([1.0, 2, 3.5, 4.0, 5.0], [True] * 9, list(range(300)), [float(k) for k in range(2500)]),
    *({"a": (1, 2.0, None), 3: b"bytes"}, "é" * 300, -5, 2**40, -(2**63), 1e300, complex(1, 2)),
    *(
        {1, 2, 3, 4, 5},
        frozenset({4}),
        (),
        [],
        "",
        b"",
        [[1.0] * 4, [2] * 4],
        collections.OrderedDict(a=1),
    ),
]
ARRAYS = [
    *(np.zeros(3, np.float32), RNG.normal(size=(4, 5)), np.asfortranarray(RNG.normal(size=(4, 5)))),
    *(np.arange(6, dtype=">i4"), np.float32(3), np.bool_(True), np.zeros((0, 3)), np.array(7)),
    *(RNG.integers(0, 255, 100_000).astype(np.uint8), RNG.normal(size=9).astype(np.float16)),
]


def save_zip(value: Any, path: Path, protocol: int = 2) -> None:
    torch.save(value, path, pickle_protocol=protocol)


def save_legacy(value: Any, path: Path, protocol: int = 2) -> None:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def save_plain(value: Any, path: Path, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(value, protocol))


WRITERS = [save_zip, save_legacy, save_plain]


def expanded(value: Any) -> Any:
    """Return `value` with runs of numbers as the numbers."""
    if type(value) is list:
        return [
            member
            for item in value
            for member in (item.tolist() if type(item) is Run else [expanded(item)])
        ]
    if type(value) is tuple:
        return tuple(map(expanded, value))
    if type(value) is dict:
        return {key: expanded(item) for key, item in value.items()}
    return value


def same(found: Any, given: Any) -> bool:
    """Return whether values and types are the same, also of numbers in lists."""
    return repr(found) == repr(dict(given) if isinstance(given, collections.OrderedDict) else given)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("save", WRITERS)
def test_data_comes_back(tmp_path: Path, save: Callable[..., None], protocol: int) -> None:
    path = tmp_path / "data.pt"
    save([PLAIN, ARRAYS], path, protocol)
    plain, arrays = load_data(path)
    for found, value in zip(plain, PLAIN, strict=True):
        assert same(expanded(found), value)
    for found, array in zip(arrays, ARRAYS, strict=True):
        assert type(found) is type(array)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tensors_come_back_as_arrays(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "data.pt"
    ten = torch.arange(10)
    tensors = [torch.ones(2, 3).t(), ten[2:5], ten, torch.tensor(2.5, dtype=torch.float64)]
    tensors += [torch.zeros(0, 3), torch.tensor([True, False]), torch.ones(1).expand(4)]
    save(tensors, path)
    for found, tensor in zip(load_data(path), tensors, strict=True):
        assert found.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found, tensor.numpy())


simple = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary()
simple |= st.floats(allow_nan=False)
nested = st.recursive(
    simple,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=60,
)


@settings(max_examples=60, deadline=None)
@given(value=nested, protocol=st.integers(2, 5), save=st.sampled_from(WRITERS))
def test_any_data_comes_back(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int, save: Callable[..., None]
) -> None:
    path = tmp_path_factory.mktemp("any") / "data.pt"
    save(value, path, protocol)
    assert same(expanded(load_data(path)), value)


@pytest.mark.parametrize(
    "value", [[1, 2, 3, 4], [1.5] * 5, [True] * 4, (1, 2.5), [7], 3, [1, 2.5] * 3]
)
def test_lists_of_numbers_become_arrays(tmp_path: Path, value: Any) -> None:
    save_zip(value, tmp_path / "data.pt")
    np.testing.assert_array_equal(as_array(load_data(tmp_path / "data.pt")), np.asarray(value))


@pytest.mark.parametrize("value", [[[1.0]], ["a"], None, {"a": 1}, [1.0, None]])
def test_other_things_do_not(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=r"a (list|dict|NoneType)"):
        as_array(value)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("save", WRITERS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_command_is_refused_and_has_not_run(
    tmp_path: Path, save: Callable[..., None], protocol: int
) -> None:
    proof, path = tmp_path / "proof", tmp_path / "data.pt"
    save([1.0, {"deep": [Calls(os.system, f"touch {proof}")]}], path, protocol)
    with pytest.raises(UserError, match=r"data.pt.* wants (posix|nt)\.system, which is not among"):
        load_data(path)
    assert not proof.exists()
    torch.load(path, weights_only=False) if save is not save_plain else pickle.loads(
        path.read_bytes()
    )
    assert proof.exists(), "the command would have run elsewhere"


GADGETS = [
    (Calls(builtins.eval, "1"), "builtin[s_]*.eval"),
    (Calls(builtins.getattr, "a", "upper"), "builtin[s_]*.getattr"),
    (Calls(partial(os.getcwd)), "functools.partial"),
    (Calls(np.load, "x.npy", None, True), "numpy.load"),
    (Calls(torch.load, "x.pt"), "torch.serialization.load"),
    (Calls(torch.hub.load, "a/b", "c"), "torch.hub.load"),
    (Calls(torch.nn.Linear, 1, 1), "torch.nn.modules.linear.Linear"),
    (Calls(torch._utils._rebuild_parameter, 1, True, {}), "torch._utils._rebuild_parameter"),
    (
        Calls(torch._tensor._rebuild_from_type_v2, os.getcwd, str, (), {}),
        "torch._tensor._rebuild_f",
    ),
    (Calls(torch.jit.load, "x"), "torch.jit._serialization.load"),
    (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    (Path("x"), "pathlib"),
    (os.system, "(posix|nt).system"),
    (np.array([{}], dtype=object), "numpy.dtype: its type is 'O8', allowed are"),
    (np.array(["text"]), "numpy.dtype: its type is 'U4'"),
    (np.zeros(1, [("a", "f4")]), "numpy.dtype: its type is 'V4'"),
    (np.datetime64("2020-01-01"), "numpy.dtype: its type is 'M8'"),
    (Calls(np.dtype, "O"), "numpy.dtype: its type is 'O'"),
    (Calls(np.ndarray, (10**9,)), "numpy.ndarray: data has no reason to call it"),
    (Calls(bytes, 10**10), "bytes: it is given arguments"),
    (2**70, "more than 64 bits"),
    ({1.5: 1}, "a key is a float"),
    (torch.ones(2, dtype=torch.bfloat16), "torch.BFloat16Storage"),
]


@pytest.mark.parametrize(("gadget", "named"), GADGETS, ids=[named for _, named in GADGETS])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_whatever_else_is_wanted_is_named(
    tmp_path: Path, gadget: Any, named: str, protocol: int
) -> None:
    save_zip([[1.0] * 5, gadget], tmp_path / "data.pt", protocol)
    with pytest.raises(UserError, match=rf"data.pt, member data/data.pkl, is refused: .*{named}"):
        load_data(tmp_path / "data.pt")


def refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match):
            load_data(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * len(content) + SPARE_BYTES + (1 << 20)


HEAD = b"\x80\x04"
HOSTILE = {
    "memo": (HEAD + b"Nr\xff\xff\xff\xff.", "memo jumps to place 4294967295"),
    "no memo": (HEAD + b"h\x07.", "memo has no place 7"),
    "bytes": (HEAD + b"\x8e" + struct.pack("<Q", 1 << 40) + b".", "asks for 1099511627776 bytes"),
    "buffer": (
        HEAD + b"\x96" + struct.pack("<Q", 1 << 62) + b".",
        "asks for 4611686018427387904 bytes",
    ),
    "text": (HEAD + b"X\xff\xff\xff\x7f.", "asks for 2147483647 bytes"),
    "lists": (HEAD + b"(" + b"]" * 400_000 + b"l.", "needs more than .* bytes of memory"),
    "dicts": (HEAD + b"(" + b"}" * 400_000 + b"t.", "needs more than .* bytes of memory"),
    "sets": (HEAD + b"(" + b"\x8f" * 10**5 + b"t.", "needs more than .* bytes of memory"),
    "marks": (HEAD + b"(" * 10**5 + b".", "unfinished"),
    "unfinished": (HEAD + b"](K\x01.", "unfinished"),
    "empty": (HEAD + b".", "unfinished"),
    "underflow": (HEAD + b"K\x01\x86.", "needs a value where there is none"),
    "no mark": (HEAD + b"]e.", "a mark is missing"),
    "below the mark": (HEAD + b"](a.", "needs a value"),
    "run below the mark": (HEAD + b"](" + b"(" + b"K\x01" * 4 + b"e.", "needs a value|as if"),
    "no call": (HEAD + b"K\x01)R.", "calls a int"),
    "state": (HEAD + b"}}b.", "gives a state to a dict"),
    "outside": (HEAD + b"K\x01Q.", "refers to data outside itself"),
    "number": (HEAD + b"\x8a\xff" + b"\x01" * 255 + b".", "more than 64 bits"),
    "not utf-8": (HEAD + b"\x8c\x01\xff.", "is damaged: .*utf-8"),
    "name": (HEAD + b"c" + b"x" * 1000 + b".", "a name has no end"),
    "protocol": (b"\x80\x07N.", "protocol 7; read are 2 to 5"),
    "old protocol": (b"(lp0\n.", "neither a file of torch.save nor a pickle"),
    "object": (HEAD + b"N)\x81.", "opcode 0x81"),
    "number of a name": (HEAD + b"\x82\x01.", "opcode 0x82"),
    "trailing": (HEAD + b"N.N.", "2 bytes follow its end"),
    "cut": (HEAD + b"](K\x01K", "asks for 1 bytes where only 0"),
    "nothing": (b"", "neither a file of torch.save nor a pickle"),
    "text file": (b"hello", "neither a file of torch.save nor a pickle"),
    "long text again": (
        HEAD + b"X\x00\x02\x00\x00" + b"a" * 512 + b"\x94h\x00\x86.",
        "refers back to a long text",
    ),
    "codec": (
        HEAD + b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
        "encodes in 'hex'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(tmp_path: Path, case: str) -> None:
    refused(tmp_path, *HOSTILE[case])


def test_depth_does_not_overflow(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(HEAD + b"]" * 100_000 + b"a" * 99_999 + b".")
    value = load_data(path)
    for _ in range(99_999):
        (value,) = value
    assert value == []


def array_pickle(shape: tuple[int, ...], content: bytes) -> bytes:
    state = (1, shape, np.dtype("f4"), False, content)
    return pickle.dumps(
        Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state), 4
    )


@pytest.mark.parametrize("shape", [(10**12,), (2**40, 2**40), (3,), (-1,), (1,) * 40])
def test_arrays_are_no_larger_than_their_bytes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refused(tmp_path, array_pickle(shape, b"\0" * 8), "is given 8 bytes|no tuple of whole numbers")


def rezipped(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> None:
    """Write an archive's members again, changed."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, content in members.items():
            changed = change(name, content)
            if changed is not None:
                new.writestr(name, changed)


@pytest.fixture
def tensor_file(tmp_path: Path) -> Path:
    save_zip([torch.arange(8.0)], tmp_path / "data.pt")
    return tmp_path / "data.pt"


def test_compressed_members_are_refused(tensor_file: Path) -> None:
    rezipped(tensor_file, lambda name, content: content, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"data.pt, member data/.*, is refused: it is compressed"):
        load_data(tensor_file)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("data/data/0", b"short", r"member data/data/0, is refused: it has 5 bytes for 8 numbers"),
        ("data/data/0", None, r"member data/data/0, is refused: there is no such member"),
        ("data/data.pkl", None, r"has 0 members data.pkl"),
        ("data/byteorder", b"big", r"member data/byteorder, is refused: .* in b'big' order"),
        ("data/data.pkl", b"\x80\x02].x", r"member data/data.pkl, is refused: 1 bytes follow"),
    ],
)
def test_wrong_members(tensor_file: Path, name: str, content: bytes | None, match: str) -> None:
    rezipped(tensor_file, lambda given, old: content if given == name else old)
    with pytest.raises(UserError, match=match):
        load_data(tensor_file)


def test_a_name_twice(tensor_file: Path) -> None:
    with pytest.warns(UserWarning), zipfile.ZipFile(tensor_file, "a") as archive:
        archive.writestr("data/data.pkl", b"\x80\x02N.")
    with pytest.raises(UserError, match=r"data.pt is refused: two members have one name"):
        load_data(tensor_file)


def test_tensors_stay_inside_their_storage(tensor_file: Path) -> None:
    def longer(name: str, content: bytes) -> bytes:
        return content.replace(b"K\x00K\x08\x85", b"K\x01K\x08\x85") if "pkl" in name else content

    rezipped(tensor_file, longer)
    with pytest.raises(UserError, match=r"_rebuild_tensor_v2: it reaches to element 8 of .* of 8"):
        load_data(tensor_file)


def test_a_list_of_members_out_of_proportion(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for k in range(20_000):
            archive.writestr(str(k), b"")
    refused(tmp_path, content.getvalue(), "its list of members|needs more than")


@pytest.mark.parametrize("name", ["nothing.pt", "."])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"there is no such file|no regular file"):
        load_data(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        load_data(tmp_path / "pipe")


def episode_like(kind: str) -> list[Any]:
    rows = [RNG.normal(size=300).astype(np.float32) for _ in range(2000)]
    if kind == "lists":
        return [row.tolist() for row in rows]
    if kind == "zeros":
        return [(row > 0).astype(np.float32) for row in rows]
    return rows if kind == "rows" else [np.stack(rows)]


@pytest.mark.parametrize("save", WRITERS)
@pytest.mark.parametrize("kind", ["lists", "rows", "zeros", "one"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_memory_stays_below_twice_the_file(
    tmp_path: Path, kind: str, save: Callable[..., None], protocol: int
) -> None:
    path = tmp_path / "data.pt"
    save(episode_like(kind), path, protocol)
    tracemalloc.start()
    try:
        value = load_data(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(value) in (1, 2000)
    assert peak <= 2 * path.stat().st_size + (1 << 19)
