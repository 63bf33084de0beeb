"""Nothing below an output folder is opened by following names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from touchstone_agent.adapters.files import (
    append_below,
    make_attempt_folder,
    open_below,
    read_below,
    remove_all_but,
    remove_tree,
    size_below,
)
from touchstone_agent.protocol.errors import PermanentError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "models").mkdir(parents=True)
    (folder / "models/long.h5").write_bytes(b"model")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


def test_a_plain_file_is_read(out: Path) -> None:
    assert read_below(out, "models/long.h5", limit=3, offset=1) == b"ode"
    assert size_below(out, "models/long.h5") == 5


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "models/../../secret", "", "a\0b"])
def test_a_path_that_leads_out_is_refused(out: Path, path: str) -> None:
    with pytest.raises(PermanentError):
        read_below(out, path, limit=10)


def test_links_are_not_followed(out: Path) -> None:
    (out / "link").symlink_to(out.parent / "secret")
    (out / "folder").symlink_to(out.parent)

    for path in ("link", "folder/secret"):
        with pytest.raises(PermanentError):
            read_below(out, path, limit=10)
        assert size_below(out, path) == 0


def test_a_named_pipe_holds_nobody_up(out: Path) -> None:
    os.mkfifo(out / "pipe")

    with pytest.raises(PermanentError, match="not a regular file"), open_below(out, "pipe"):
        pass


def test_an_absent_file_is_told_from_a_bad_one(out: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_below(out, "models/short.h5", limit=1)
    assert size_below(out, "models/short.h5") == 0


def test_a_folder_in_the_place_of_a_file_is_no_file(out: Path) -> None:
    """It came as another error, which the agent took for a defect of its own."""
    (out / "console.log").mkdir()

    with pytest.raises(PermanentError, match="not a regular file"):
        read_below(out, "console.log", limit=10)
    assert size_below(out, "console.log") == 0


def test_appending_makes_a_file_or_goes_on_with_it(out: Path) -> None:
    append_below(out, "console.log", b"one\n")
    append_below(out, "console.log", b"two\n")

    assert (out / "console.log").read_bytes() == b"one\ntwo\n"


def test_appending_leaves_alone_what_is_no_file(out: Path) -> None:
    (out / "link").symlink_to(out.parent / "secret")
    (out / "folder").mkdir()
    os.mkfifo(out / "pipe")

    for name in ("link", "folder", "pipe"):
        append_below(out, name, b"x")

    assert (out.parent / "secret").read_bytes() == b"secret"


def test_removing_a_folder_leaves_what_its_links_point_at(out: Path) -> None:
    (out / "link").symlink_to(out.parent / "secret")

    remove_tree(out)
    remove_tree(out)

    assert not out.exists()
    assert (out.parent / "secret").exists()


def test_an_attempts_folder_keeps_others_out(tmp_path: Path) -> None:
    folder = tmp_path / "attempts/name"

    make_attempt_folder(folder)
    make_attempt_folder(folder)

    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in folder.iterdir()) == ["in", "out", "tmp"]


def make_deep(folder: Path, depth: int) -> None:
    """Make folders inside each other, beyond what a path or a stack can hold."""
    handle = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)


def test_folders_may_be_as_deep_as_somebody_likes(out: Path) -> None:
    """A module of ten lines made folders that ended every agent which tried to remove them."""
    make_deep(out, 3000)

    remove_tree(out)

    assert not out.exists()


def test_a_folder_without_any_right_is_removed(out: Path) -> None:
    (out / "models").chmod(0)
    (out / "other/inner").mkdir(parents=True)
    (out / "other").chmod(0o500)

    remove_tree(out)

    assert not out.exists()


def test_all_but_one_file_is_removed(out: Path) -> None:
    (out / "console.log").write_bytes(b"kept")
    (out / "folder").symlink_to(out.parent)
    (out / "deep/console.log").parent.mkdir()
    (out / "deep/console.log").write_bytes(b"another")

    remove_all_but(out, "console.log")
    remove_all_but(out / "gone", "console.log")

    assert [path.name for path in out.iterdir()] == ["console.log"]
    assert (out.parent / "secret").exists()


def test_a_file_with_two_names_is_not_the_runners(out: Path) -> None:
    (out / "verdict.json").write_bytes(b"{}")
    (out / "other").hardlink_to(out / "verdict.json")

    assert size_below(out, "verdict.json") == 2
    assert size_below(out, "verdict.json", is_owners=True) == 0
    with pytest.raises(PermanentError, match="was not written by the runner"):
        read_below(out, "verdict.json", limit=10, is_owners=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")
def test_a_file_of_another_user_is_not_the_runners(out: Path) -> None:
    for name, uid in (("agent", 0), ("runner", 1000), ("trainer", 65534)):
        (out / name).write_bytes(b"x")
        os.chown(out / name, uid, uid)
    os.chown(out, 1000, 1000)

    sizes = {n: size_below(out, n, is_owners=True) for n in ("agent", "runner", "trainer")}
    assert sizes == {"agent": 1, "runner": 1, "trainer": 0}
