"""The page that says which test shows what names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/security.md").read_text()

ROW = re.compile(r"^\| (?!could try|mistake|---)([^|]+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
NAME = re.compile(r"`([a-z_/]+(?:\.py|/))`")
PARTIES = 8


def find_limits():
    """Return what somebody could try, and the names of the tests that show its limit."""
    limits = PAGE[PAGE.index("## A stranger") :]
    return [(tried, NAME.findall(shown)) for tried, shown in ROW.findall(limits)]


def test_each_limit_is_shown_by_tests_that_are_there():
    limits = find_limits()
    assert len(limits) > 4 * PARTIES
    for tried, names in limits:
        assert names, f"no test is named for: {tried}"
        for name in names:
            assert (TESTS / name).exists(), f"{name}, named for: {tried}"


def test_every_attack_is_on_the_page():
    for attack in (TESTS / "security").glob("test_*.py"):
        assert f"`security/{attack.name}`" in PAGE
