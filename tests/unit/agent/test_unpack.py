"""Archives that want out of their folder."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from touchstone_agent.adapters import transfer
from touchstone_agent.adapters.archives import UnsafeArchive
from touchstone_agent.adapters.transfer import unpack


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes], **options: object) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(buffer.getvalue()))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "input.tar.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in" / "content"
    folder.mkdir(parents=True)
    return folder


def test_plain_files_and_folders_are_unpacked(archive: Path, folder: Path) -> None:
    long_name = "deep/" * 40 + "end.py"
    write(
        archive,
        (member("./", tarfile.DIRTYPE), b""),
        (member("./a/", tarfile.DIRTYPE), b""),
        (member("a/b.py"), b"code"),
        (member("run.sh", mode=0o755), b"#!/bin/sh"),
        (member("setuid", mode=0o4755), b""),
        (member(long_name), b"far"),
    )

    unpack(archive, folder, max_bytes=1000)

    assert (folder / "a/b.py").read_bytes() == b"code"
    assert (folder / long_name).read_bytes() == b"far"
    assert (folder / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (folder / "setuid").stat().st_mode & 0o7000 == 0


HOSTILE = {
    "an absolute name": [(member("/etc/cron.d/x"), b"x")],
    "a name with ..": [(member("a/../../x"), b"x")],
    "only ..": [(member(".."), b"x")],
    "a symbolic link": [(member("l", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "a file through a link": [(member("l", tarfile.SYMTYPE, "/tmp"), b""), (member("l/x"), b"x")],
    "a hard link": [(member("l", tarfile.LNKTYPE, "/etc/passwd"), b"")],
    "a device": [(member("d", tarfile.CHRTYPE), b"")],
    "a block device": [(member("d", tarfile.BLKTYPE), b"")],
    "a named pipe": [(member("p", tarfile.FIFOTYPE), b"")],
    "the same file twice": [(member("a"), b"1"), (member("a"), b"2")],
    "a file as a folder": [(member("a"), b"1"), (member("a/b"), b"2")],
    "too many bytes": [(member("a"), b"x" * 600), (member("b"), b"x" * 600)],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(what: str, archive: Path, folder: Path) -> None:
    before = set(folder.parent.parent.rglob("*"))
    write(archive, *HOSTILE[what])

    with pytest.raises(UnsafeArchive):
        unpack(archive, folder, max_bytes=1000)

    outside = {p for p in folder.parent.parent.rglob("*") if not p.is_relative_to(folder)}
    assert outside <= before | {archive}
    assert not any(p.is_symlink() for p in folder.rglob("*"))


def test_a_member_that_claims_to_be_huge_is_refused_by_its_claim(
    archive: Path, folder: Path
) -> None:
    info = member("bomb")
    info.size = 10**12
    archive.write_bytes(gzip.compress(info.tobuf() + bytes(10240)))

    with pytest.raises(UnsafeArchive, match="more than 1000 bytes"):
        unpack(archive, folder, max_bytes=1000)


def test_a_header_that_would_fill_the_memory_is_refused(archive: Path, folder: Path) -> None:
    info = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = 10**10
    archive.write_bytes(gzip.compress(info.tobuf(format=tarfile.GNU_FORMAT) + bytes(10240)))

    with pytest.raises(UnsafeArchive, match="header of"):
        unpack(archive, folder, max_bytes=10**12)


def test_too_many_members_are_refused(
    archive: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_MEMBERS", 2)
    write(archive, *((member(f"f{i}"), b"") for i in range(3)))

    with pytest.raises(UnsafeArchive):
        unpack(archive, folder, max_bytes=1000)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an archive", gzip.compress(b"not a tar" * 100), gzip.compress(bytes(512))[:-9]],
    ids=["empty", "garbage", "not a tar", "cut off"],
)
def test_what_is_no_archive_is_refused(data: bytes, archive: Path, folder: Path) -> None:
    archive.write_bytes(data)

    with pytest.raises(UnsafeArchive):
        unpack(archive, folder, max_bytes=1000)


def test_damaged_compression_is_refused(archive: Path, folder: Path) -> None:
    write(archive, (member("a"), bytes(range(256)) * 100))
    data = bytearray(archive.read_bytes())
    data[10:14] = b"\xff\xff\xff\xff"
    archive.write_bytes(bytes(data))

    with pytest.raises(UnsafeArchive):
        unpack(archive, folder, max_bytes=10**6)
