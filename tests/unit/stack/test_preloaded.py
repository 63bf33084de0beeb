"""What is loaded ahead for tasks exists, and is what operators import."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from touchstone.stack.preloaded import PRELOADED


@pytest.mark.parametrize("name", sorted({name for names in PRELOADED.values() for name in names}))
def test_what_is_loaded_ahead_exists(name):
    assert find_spec(name) is not None


def test_a_command_goes_on_as_airflows(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "touchstone.stack.preloaded", "scheduler", "--help"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "airflow scheduler" in done.stdout
