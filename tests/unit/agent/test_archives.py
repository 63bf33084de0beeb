"""The one reader of archives that strangers made."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from touchstone_agent.adapters import archives
from touchstone_agent.adapters.archives import UnsafeArchive, read_members


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header block that claims any size, negative ones included."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def fill_up(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    data = b""
    for name, value in records.items():
        rest = f" {name.replace('__', '.')}={value}\n".encode()
        size = len(rest) + 1
        while len(str(size)) + len(rest) != size:
            size += 1
        data += str(size).encode() + rest
    return header("pax", len(data), tarfile.XHDTYPE) + fill_up(data)


def file(name: str, body: bytes = b"x") -> bytes:
    return header(name, len(body)) + fill_up(body)


END = bytes(1024)


class Recorded(io.BytesIO):
    """Bytes that note where they were read, and refuse to be read twice."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        raise AssertionError(f"somebody went to {offset}")


def read(*blocks: bytes, max_bytes: int = 10_000, max_members: int = 100):
    packed = Recorded(gzip.compress(b"".join(blocks)))
    return [
        (member.name, b"".join(member.pieces))
        for member in read_members(packed, max_bytes=max_bytes, max_members=max_members)
    ]


def test_members_come_one_after_the_other_with_their_bytes():
    assert read(file("a", b"1" * 513), file("./b//c"), file("b/d", b""), END) == [
        ("a", b"1" * 513),
        ("b/c", b"x"),
        ("b/d", b""),
    ]


def test_what_is_not_taken_of_a_member_is_passed_over():
    packed = io.BytesIO(gzip.compress(file("a", b"1" * 5000) + file("b") + END))

    names = [member.name for member in read_members(packed, max_bytes=9999, max_members=9)]

    assert names == ["a", "b"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_read_in_every_form(form):
    name = "/".join(["folder" * 5] * 5) + "/end.py"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode = 1, 0o755
        tar.addfile(info, io.BytesIO(b"x"))
    packed.seek(0)

    (member,) = read_members(packed, max_bytes=1, max_members=1)

    assert (member.name, member.size, member.is_executable) == (name, 1, True)


def test_a_comment_for_all_members_as_git_writes_it_is_passed_over():
    comment = b"18 comment=" + b"c" * 6 + b"\n"

    assert read(header("g", len(comment), tarfile.XGLTYPE) + fill_up(comment), file("a"), END) == [
        ("a", b"x")
    ]


HOSTILE = {
    "a size below zero": ([header("a", -512)], "claims to have -512 bytes"),
    "a size beyond all range": ([header("a", 2**80)], "unpacks to more than"),
    "a size that is more than there is": ([header("a", 9000)], "it is cut off"),
    "a size by an extended header": ([pax(size="-512"), file("a")], "impossible size"),
    "a size of many digits": ([pax(size="9" * 5000), file("a")], "impossible size"),
    "a long header": (
        [header("x", 10**10, tarfile.XHDTYPE)],
        "a header of 10000000000 bytes, which is too long",
    ),
    "a header of less than nothing": ([header("x", -512, tarfile.GNUTYPE_LONGNAME)], "too long"),
    "one header after the other": (
        [header("x", 0, tarfile.XHDTYPE), header("x", 0, tarfile.XHDTYPE), file("a")],
        "one header after the other",
    ),
    "a header that lies of its length": (
        [header("x", 10, tarfile.XHDTYPE) + fill_up(b"99999 a=b\n"), file("a")],
        "cannot be read",
    ),
    "a header that has no length": (
        [header("x", 10, tarfile.XHDTYPE) + fill_up(b"aaaaaaaaaa"), file("a")],
        "cannot be read",
    ),
    "one name for all": (
        [header("g", 10, tarfile.XGLTYPE) + fill_up(b"10 path=a\n"), file("a")],
        "gives all members one name",
    ),
    "holes": ([pax(GNU__sparse__major="1"), file("a")], "holes"),
    "holes of old": ([header("a", 0, tarfile.GNUTYPE_SPARSE)], "neither a file nor a folder"),
    "a name by an extended header": ([pax(path="../x"), file("a")], "leads out"),
    "a name that is too long": ([pax(path="n" * 256), file("a")], "too long a path"),
    "a path that is too deep": ([pax(path="a/" * 65 + "a"), file("a")], "too long a path"),
    "a name that moves the cursor": ([pax(path="\x1b[2J"), file("a")], "cannot be printed"),
    "a name in no encoding": ([header("a\udcff")], "not a name in UTF-8"),
    "a damaged header": ([b"\xff" * 512], "bad checksum"),
    "no end": ([file("a")], "it is cut off"),
    "more behind the end": ([file("a"), END, bytes(17 * 1024**2)], "something behind its end"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_honest_archive_has_is_refused(what: str) -> None:
    blocks, message = HOSTILE[what]
    end = [] if what == "no end" else [END]

    with pytest.raises(UnsafeArchive, match=message):
        read(*blocks, *end)


def test_headers_count_together_too(monkeypatch):
    """Four hundred megabytes of them stood before a single file."""
    monkeypatch.setattr(archives, "MAX_HEADERS_BYTES", 1000)
    one = pax(comment="c" * 200) + file("a")

    assert len(read(one * 4, END)) == 4
    with pytest.raises(UnsafeArchive, match="too long"):
        read(one * 5, END)


def test_files_and_members_are_counted():
    assert len(read(file("a") + file("b"), END, max_members=2, max_bytes=2)) == 2
    with pytest.raises(UnsafeArchive, match="more than 1 members"):
        read(file("a") + file("b"), END, max_members=1)
    with pytest.raises(UnsafeArchive, match="unpacks to more than 1 bytes"):
        read(file("a") + file("b"), END, max_bytes=1)
