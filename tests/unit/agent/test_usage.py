"""What is on the disk is counted, however somebody tries to hide it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from touchstone_agent.adapters.usage import is_at_home, measure_folder, measure_unlinked
from touchstone_agent.core.limits import MAX_DEPTH, Allowance, find_excess

MIB = 1024**2
ROOMY = Allowance(bytes=100 * MIB, told_bytes=100 * MIB)


def test_files_folders_and_links_are_counted(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/long.h5").write_bytes(bytes(MIB))
    (tmp_path / "link").symlink_to("/etc")

    usage = measure_folder(tmp_path, ROOMY)

    assert usage.files == 3
    assert MIB <= usage.bytes < 1.1 * MIB
    assert usage.depth == 1


def test_a_sparse_file_counts_with_its_size(tmp_path: Path) -> None:
    """It takes no disk, but somebody would read and send all of it."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(200 * MIB)

    assert measure_folder(tmp_path, ROOMY).bytes > ROOMY.bytes


def test_space_beyond_the_end_of_a_file_counts(tmp_path: Path) -> None:
    with (tmp_path / "reserved").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
        file.truncate(4 * MIB)

    assert measure_folder(tmp_path, ROOMY).bytes >= 4 * MIB


def test_a_tiny_file_counts_with_the_disk_that_it_takes(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_text("x")

    facts = (tmp_path / "0").stat()
    assert measure_folder(tmp_path, ROOMY).bytes == 50 * max(1, facts.st_blocks * 512)


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(MIB))
    (tmp_path / "two").hardlink_to(tmp_path / "one")

    usage = measure_folder(tmp_path, ROOMY)

    assert usage.files == 2
    assert usage.bytes < 1.5 * MIB


def test_counting_stops_where_it_is_too_much(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).write_bytes(bytes(1000))

    assert measure_folder(tmp_path, Allowance(bytes=MIB, told_bytes=1, files=5)).files == 6
    assert measure_folder(tmp_path, Allowance(bytes=1, told_bytes=1)).files == 1


def test_nothing_is_counted_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/big").write_bytes(bytes(2 * MIB))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")

    assert measure_folder(tmp_path / "out", ROOMY).bytes < MIB


def test_folders_are_never_too_deep_to_be_seen(tmp_path: Path) -> None:
    """Files at a path that is longer than the kernel takes were out of everybody's sight."""
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(MAX_DEPTH + 5):
        os.mkdir("d" * 200, dir_fd=handle)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)

    assert "deep" in str(find_excess(measure_folder(tmp_path, ROOMY), ROOMY))


def test_a_folder_that_is_closed_to_us_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    really_open = os.open

    def open_if_allowed(path, flags, *, dir_fd=None):
        # Said by hand, because nothing is closed to root, who may be running this.
        if path == "closed":
            raise PermissionError(path)
        return really_open(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_if_allowed)
    assert measure_folder(tmp_path, ROOMY).closed == "closed"


def test_a_folder_that_is_gone_is_empty(tmp_path: Path) -> None:
    assert measure_folder(tmp_path / "gone", ROOMY).files == 0


def test_what_was_unlinked_and_is_open_counts(tmp_path: Path) -> None:
    before = measure_unlinked(os.getpid(), tmp_path)
    with (tmp_path / "gone").open("wb") as file:
        file.write(bytes(3 * MIB))
        file.flush()
        (tmp_path / "gone").unlink()

        usage = measure_unlinked(os.getpid(), tmp_path)

    assert measure_folder(tmp_path, ROOMY).bytes == 0
    assert usage.bytes - before.bytes >= 3 * MIB
    assert usage.files == before.files + 1
    assert usage.handles > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at mappings")
def test_what_was_unlinked_and_closed_and_is_mapped_counts(tmp_path: Path) -> None:
    before = measure_unlinked(os.getpid(), tmp_path)
    with (tmp_path / "gone").open("w+b") as file:
        file.truncate(2 * MIB)
        memory = mmap.mmap(file.fileno(), 2 * MIB)
    memory[:] = b"x" * (2 * MIB)
    memory.flush()
    (tmp_path / "gone").unlink()
    # Python keeps a descriptor of its own, which others need not do: here it is looked at, too.

    usage = measure_unlinked(os.getpid(), tmp_path)
    memory.close()

    assert usage.bytes - before.bytes >= 2 * MIB
    assert usage.files == before.files + 1


def test_another_machines_process_is_not_taken_for_ours(tmp_path: Path) -> None:
    assert is_at_home(os.getpid(), tmp_path, str(tmp_path))
    assert not is_at_home(os.getpid(), tmp_path, "/")
    assert not is_at_home(2**22 + 1, tmp_path, str(tmp_path))
