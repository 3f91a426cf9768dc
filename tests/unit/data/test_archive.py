"""Archives: what is unpacked, and what is not."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.data.archive import _listed_members, extract
from mads4.errors import UserError

CONTENT = {"set/good/0.pt": b"zero" * 1000, "set/good/1.pt": b"", "set/meta.json": b"{}"}


def zip_of(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("set") if hasattr(archive, "mkdir") else None
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, content: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("set")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_gz_of(path: Path, content: dict[str, bytes]) -> Path:
    return tar_of(path, content, "w:gz")


def tar_xz_of(path: Path, content: dict[str, bytes]) -> Path:
    return tar_of(path, content, "w:xz")


def tar_bz2_of(path: Path, content: dict[str, bytes]) -> Path:
    return tar_of(path, content, "w:bz2")


Packer = Callable[[Path, dict[str, bytes]], Path]
PACKERS = [zip_of, tar_of, tar_gz_of, tar_xz_of, tar_bz2_of]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def nothing_left(tmp_path: Path, *names: str) -> bool:
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("pack", PACKERS)
def test_content_is_unpacked(tmp_path: Path, pack: Packer) -> None:
    archive = pack(tmp_path / "archive", CONTENT)
    seen: list[tuple[int, str]] = []
    folder = extract(archive, tmp_path / "new" / "data", on_progress=lambda *so: seen.append(so))
    assert files_in(folder) == CONTENT
    assert seen == [(4000, "set/good/0.pt"), (4002, "set/meta.json")]
    assert nothing_left(tmp_path, "archive", "new")
    assert nothing_left(tmp_path / "new", "data")


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    extract(zip_of(tmp_path / "a.zip", CONTENT), tmp_path / "data")
    assert files_in(tmp_path / "data") == CONTENT


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"a": b"1"}).read_bytes()
    extract(tar_of(tmp_path / "outer", {"inner.zip": inner}), tmp_path / "data")
    assert files_in(tmp_path / "data") == {"inner.zip": inner}


def refused(archive: Path, match: str, **limits: int) -> None:
    """Expect the refusal, nothing left behind, and nothing outside."""
    parent = archive.parent
    before = sorted(parent.parent.rglob("*"))
    with pytest.raises(UserError, match=match):
        extract(archive, parent / "data", **limits)
    assert sorted(parent.parent.rglob("*")) == before


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


OUTSIDE = ["../evil", "a/../../evil", "/tmp/evil", "a/..", "..", "C:evil", "a\\..\\evil", "//x/y"]


@pytest.mark.parametrize("pack", [zip_of, tar_gz_of])
@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_leaves_the_folder(inside: Path, pack: Packer, name: str) -> None:
    archive = pack(inside / "archive", {"fine": b"1", name: b"2"})
    refused(archive, r"member '.*', is not unpacked: (it would lie outside|its name holds)")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_and_devices_in_tars(inside: Path, kind: bytes) -> None:
    with tarfile.open(inside / "archive", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "../.."
        archive.addfile(info)
    refused(inside / "archive", r"member 'link', is not unpacked: it is a link or a device")


def test_links_in_zips(inside: Path) -> None:
    with zipfile.ZipFile(inside / "archive", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "../..")
    refused(inside / "archive", r"member 'link', is not unpacked: it is a link or a device")


@pytest.mark.parametrize("pack", [zip_of, tar_gz_of])
def test_bombs(inside: Path, pack: Packer) -> None:
    archive = pack(inside / "archive", {"zeros": bytes(1 << 24)})
    tracemalloc.start()
    try:
        refused(archive, r"says 16777216 bytes|beyond 1048576 bytes", max_bytes=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_the_limit_is_for_all_files_together(inside: Path, pack: Packer) -> None:
    archive = pack(inside / "archive", {"a": bytes(600), "b": bytes(600)})
    refused(archive, r"1200 bytes, allowed are 1000|'b', .* beyond 1000 bytes", max_bytes=1000)
    extract(archive, inside / "data", max_bytes=1200)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_too_many_members(inside: Path, pack: Packer) -> None:
    archive = pack(inside / "archive", {str(k): b"" for k in range(20)})
    refused(archive, "it has more than 10 members", max_members=10)


def test_a_size_that_is_a_lie(inside: Path) -> None:
    archive = zip_of(inside / "archive", {"zeros": bytes(100_000)})
    content = archive.read_bytes()
    true, told = (100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    archive.write_bytes(content.replace(true, told))
    refused(archive, r"member 'zeros', (is damaged|is not unpacked)")


def test_an_extended_header_of_gigabytes(inside: Path) -> None:
    """A compressed megabyte may declare, and hold, a header that would fill the memory."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 25
    content = header.tobuf() + bytes(1 << 25)
    (inside / "archive").write_bytes(gzip.compress(content, 1))
    del content
    tracemalloc.start()
    try:
        refused(inside / "archive", "asks for more than 1048576 bytes")
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_member_twice(inside: Path, pack: Packer) -> None:
    archive = pack(inside / "archive", {"a/b": b"1", "a//b": b"2"})
    refused(archive, "member 'a//b', is not unpacked: it comes twice")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_folder_in_a_files_place(inside: Path, pack: Packer) -> None:
    refused(pack(inside / "archive", {"a": b"1", "a/b": b"2"}), "member 'a/b',")


@pytest.mark.parametrize("content", [b"", b"hello" * 300, b"PK\x03\x04 no", b"\x1f\x8b no"])
def test_what_is_no_archive(inside: Path, content: bytes) -> None:
    (inside / "archive").write_bytes(content)
    refused(inside / "archive", r"archive (is damaged|cannot be unpacked)")


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no archive"):
        extract(tmp_path / "nothing.zip", tmp_path / "data")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    with pytest.raises(UserError, match="it is there and not empty"):
        extract(zip_of(tmp_path / "a.zip", CONTENT), tmp_path / "data")
    assert (tmp_path / "data" / "mine").exists()


def test_a_list_that_hides_members(inside: Path) -> None:
    """The first member's comment is said to be so long that it takes in the others."""
    archive = zip_of(inside / "archive", CONTENT)
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 32 : at + 34] = b"\xff\xff"
    archive.write_bytes(content)
    refused(archive, "archive is damaged: its list has")


def test_a_file_called_a_folder(inside: Path) -> None:
    archive = zip_of(inside / "archive", {"set/a": b"content"})
    archive.write_bytes(archive.read_bytes().replace(b"set/a", b"set//"))
    refused(archive, "is damaged: it is called a folder and has content")


def test_the_64_bit_list_of_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    archive = zip_of(tmp_path / "archive", CONTENT)
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\5\6")
    content[at + 8 : at + 12] = b"\xff" * 4
    archive.write_bytes(content)
    assert files_in(extract(archive, tmp_path / "data")) == CONTENT


def test_more_members_than_sixteen_bits_count() -> None:
    """Some programs write the number modulo 65536, without the 64-bit list."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writing:
        writing.writestr("a", b"")
    assert _listed_members(archive, 1) == 1
    assert _listed_members(archive, 65537) == 65537
    assert _listed_members(archive, 65536) == 1


@pytest.mark.parametrize("pack", PACKERS)
@settings(max_examples=80, deadline=2000)
@given(data=st.data())
def test_damage_never_gives_other_content(
    tmp_path_factory: pytest.TempPathFactory, pack: Packer, data: st.DataObject
) -> None:
    """A flipped byte or a cut: an error, or the same content (what is not checked is not content).

    A plain tar archive has no checksum of its content, so there only the error's kind is tested.
    """
    folder = tmp_path_factory.mktemp("flip")
    archive = pack(folder / "archive", {"a": bytes(range(256)), "b/c": b"text" * 50})
    content = bytearray(archive.read_bytes())
    extract(archive, folder / "true")
    share = st.floats(0, 1, exclude_max=True)
    at = int(data.draw(share) * len(content))
    content[at] ^= data.draw(st.integers(1, 255))
    end = data.draw(st.just(1.0) | share)
    archive.write_bytes(content[: int(end * len(content))])
    try:
        extract(archive, folder / "data")
    except UserError as error:
        assert "archive" in str(error)
        assert not (folder / "data").exists()
        return
    if pack is not tar_of:
        found, true = (sorted(files_in(folder / name).values()) for name in ("data", "true"))
        assert found == true
