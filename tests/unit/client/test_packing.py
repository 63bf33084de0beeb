from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from touchstone.client.packing import pack
from touchstone.confined.archives import check_archive
from touchstone_agent.protocol.errors import ConfigurationError

LIMIT = 1024**2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "b.py").write_text("b = 1\n")
    (folder / "pkg" / "a.py").write_text("a = 1\n")
    (folder / "run.sh").write_text("true\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def read(packed: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return archive.getmembers()


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, LIMIT)
    copy = tmp_path / "elsewhere" / "copy"
    (copy / "pkg").mkdir(parents=True)
    # Written in another order, at another time, by another umask.
    for name, mode in (("run.sh", 0o700), ("pkg/a.py", 0o600), ("pkg/b.py", 0o664)):
        (copy / name).write_bytes((folder / name).read_bytes())
        (copy / name).chmod(mode)
        os.utime(copy / name, (1_000_000, 1_000_000))
    assert pack(copy, LIMIT) == first


def test_another_content_gives_other_bytes(folder: Path) -> None:
    first = pack(folder, LIMIT)
    (folder / "pkg" / "a.py").write_text("a = 2\n")
    assert pack(folder, LIMIT) != first


def test_members_are_sorted_and_belong_to_nobody(folder: Path) -> None:
    members = read(pack(folder, LIMIT))
    assert [member.name for member in members] == ["pkg/a.py", "pkg/b.py", "run.sh"]
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {
        (0, 0, "", 0)
    }
    assert [oct(member.mode) for member in members] == ["0o644", "0o644", "0o755"]


@pytest.mark.parametrize(
    "name",
    [
        ".git/config",
        "__pycache__/a.pyc",
        ".venv/bin/python",
        "pkg/__pycache__/x",
        "a.pyc",
        ".env",
        ".pytest_cache/x",
        "x.egg-info/PKG-INFO",
    ],
)
def test_what_is_no_part_of_a_module_stays_behind(folder: Path, name: str) -> None:
    first = pack(folder, LIMIT)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("secret")
    assert pack(folder, LIMIT) == first


def test_what_is_packed_here_is_taken_there(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "packed").open("w+b") as archive:
        archive.write(pack(folder, LIMIT))
        check_archive(archive, "content", max_bytes=LIMIT)


def test_an_archive_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "module.tar.gz"
    archive.write_bytes(pack(folder, LIMIT))
    assert pack(archive, LIMIT) == archive.read_bytes()


def test_a_link_is_refused_by_name(folder: Path) -> None:
    (folder / "link.py").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match=r"link\.py is a link"):
        pack(folder, LIMIT)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(ConfigurationError, match="no file that is submitted; put"):
        pack(tmp_path, LIMIT)


def test_too_much_is_refused_naming_the_largest(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(os.urandom(5000))
    told = r"of at most 0\.0 MiB; leave out what .*: the largest files are weights\.bin \("
    with pytest.raises(ConfigurationError, match=told):
        pack(folder, 4096)


def test_files_that_would_only_be_refused_later_are_not_sent(folder: Path) -> None:
    (folder / "zeros.bin").write_bytes(bytes(LIMIT + 1))
    with pytest.raises(ConfigurationError, match=r"zeros\.bin"):
        pack(folder, LIMIT)


def test_a_file_that_is_no_archive_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="git URL"):
        pack(folder / "run.sh", LIMIT)


def test_a_file_of_the_module_is_answered_with_its_folder(folder: Path) -> None:
    (folder / "features.py").touch()
    with pytest.raises(ConfigurationError, match=f"give the folder .*, {folder.resolve()}$"):
        pack(folder / "features.py", LIMIT)
