"""What the README says a bare Debian lacks is what the tests' own script installs there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
SCRIPT = (REPOSITORY / ".ci/run").read_text()

INSTALL = re.compile(r"apt-get install --no-install-recommends (.+)$", re.MULTILINE)
FOR_THE_BASE_IMAGE = {"debootstrap"}
"""What only the script needs: it makes the image that trainers are built from."""


def read_missing():
    """Return the packages that ``.ci/run`` installs where they are missing."""
    groups = re.findall(r"missing\+=\(([^)]+)\)", SCRIPT)
    return {name for group in groups for name in group.split()}


def test_the_readme_names_every_package_that_the_script_installs():
    told = {name for line in INSTALL.findall(README) for name in line.split()}
    assert told | FOR_THE_BASE_IMAGE == read_missing()


def test_the_readme_names_the_command_that_passes_the_tests_beside_the_one_that_runs_the_demo():
    [commands] = [block for block in README.split("```") if "$ make demo" in block]
    assert "$ make test-fast " in commands
    assert "$ make test " in commands
