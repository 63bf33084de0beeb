"""Ports for servers of tests: no two processes of tests are told the same one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fakes import ports

TESTS = Path(__file__).parents[1]
ASK = "from itertools import count; from fakes import ports; ports._numbers = count({}); {}"


def test_another_process_is_told_another_port(monkeypatch):
    monkeypatch.setattr(ports, "_numbers", iter(range(7000, 8000)))
    mine = [ports.find_free_port() for _ in range(3)]

    told = subprocess.run(
        [sys.executable, "-c", ASK.format(7000, "print(ports.find_free_port())")],
        env={"PYTHONPATH": str(TESTS)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert len(set(mine)) == 3
    assert int(told) not in mine
