"""Tests that share what is expensive to make run in one process of the suite's."""

from __future__ import annotations

import os
import re
import subprocess
import sys

MODULE = """
import pytest

pytestmark = pytest.mark.xdist_group("shared")


@pytest.mark.parametrize("number", range(6))
def test_one_of_them(number):
    pass
"""


def test_a_group_stays_together(tmp_path):
    """A release of pytest and one of its plugin no longer agreed on that, without a word."""
    (tmp_path / "test_it.py").write_text(MODULE)
    # Or a configuration above the temporary folder, of anybody's, would count.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--numprocesses=3",
            "--dist=loadgroup",
            "-v",
            "test_it.py",
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    workers = re.findall(r"\[(gw\d)\] .*PASSED", done.stdout)
    assert len(workers) == 6
    assert len(set(workers)) == 1
