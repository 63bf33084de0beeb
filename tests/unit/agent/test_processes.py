"""Processes are found by what the kernel tells of them."""

from __future__ import annotations

import os
import subprocess

import pytest

from touchstone_agent.adapters import processes
from touchstone_agent.adapters.processes import find_descendants, list_tree


@pytest.fixture
def family() -> object:
    """A child and a grandchild that wait until they are told."""
    script = "sh -c 'echo $$; read x; :' ; :"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield child.pid, int(child.stdout.readline())
        child.communicate("\n")


@pytest.mark.parametrize("tells", [True, False])
def test_all_below_a_process_are_found(
    family: tuple[int, int], tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_TELLS_CHILDREN", tells)

    found = list_tree(os.getpid())

    assert {os.getpid(), *family} <= set(found)
    assert set(family) <= set(find_descendants(os.getpid()))


def test_one_that_is_gone_has_nobody_below_it() -> None:
    assert list_tree(2**22 + 1) == [2**22 + 1]
