"""Archives of submitters, packed anew in a process of its own."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from touchstone.confined import archives
from touchstone.confined.archives import Names, PackedFile, check_archive, repack, write_archive
from touchstone_agent.adapters.archives import UnsafeArchive
from touchstone_agent.protocol.errors import ConfigurationError


def make_tar(*members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def make_link(kind):
    info = tarfile.TarInfo("features.py")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def names(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_equal_files_give_equal_bytes_in_whatever_order_they_come():
    files = [PackedFile(name="b", body=b"1"), PackedFile(name="a", body=b"2", is_executable=True)]
    first, second = io.BytesIO(), io.BytesIO()

    write_archive(files, first)
    write_archive(reversed(files), second)

    assert first.getvalue() == second.getvalue()
    assert names(first.getvalue()) == ["a", "b"]


@pytest.mark.parametrize(
    "info",
    [
        tarfile.TarInfo("../escape.py"),
        tarfile.TarInfo("/etc/cron.d/x"),
        tarfile.TarInfo("a/../../b"),
        make_link(tarfile.SYMTYPE),
        make_link(tarfile.LNKTYPE),
        make_link(tarfile.CHRTYPE),
        make_link(tarfile.FIFOTYPE),
    ],
)
def test_a_member_that_could_escape_is_refused(info):
    with pytest.raises(ConfigurationError, match=r"^source: '.*' (leads out|is a link|is neither)"):
        repack(make_tar((info, b"")), "source", max_bytes=1024)


def test_what_is_no_archive_is_refused():
    with pytest.raises(ConfigurationError, match=r"^source: not a readable \.tar\.gz"):
        repack(b"PK\x03\x04", "source", max_bytes=1024)


def test_only_the_wanted_folder_is_taken_and_counted():
    tar = make_tar(
        (tarfile.TarInfo("a/features.py"), b"x"), (tarfile.TarInfo("large.bin"), bytes(2000))
    )

    assert names(repack(tar, "source", path="a/", max_bytes=1000)) == ["features.py"]
    with pytest.raises(ConfigurationError, match="path: no files in 'b'; name a folder"):
        repack(tar, "source", path="b", max_bytes=1000)
    with pytest.raises(
        ConfigurationError, match="source: has more than 1000 bytes of files; leave out"
    ):
        repack(tar, "source", max_bytes=1000)


def test_a_name_that_is_there_twice_is_refused():
    """Which of the two was meant, no two programs agree about."""
    for second in ("a", "a/b"):
        names = Names()
        names.add("a")
        with pytest.raises(UnsafeArchive, match="'a' is"):
            names.add(second)


def test_what_takes_more_memory_than_it_may_is_refused_by_the_fields_name(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MEMORY_BYTES", 96 * 1024**2)
    with (tmp_path / "small").open("w+b") as file:
        file.write(make_tar((tarfile.TarInfo("a"), b"x")))
        check_archive(file, "content", max_bytes=10)
    # Ten thousand times the longest path: 50 bytes each when packed, and half a kilobyte when read.
    deep = "/".join(["d" * 30] * 30)
    with (tmp_path / "archive").open("w+b") as file:
        with (
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for number in range(9000):
                tar.addfile(tarfile.TarInfo(f"{number}/{deep}"))

        with pytest.raises(ConfigurationError, match=r"^content: .* too much memory"):
            check_archive(file, "content", max_bytes=10**9)
