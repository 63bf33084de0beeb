"""The Scheduled Task of Windows; there is no Windows here, so only its text is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Parser

SCRIPT = Path(__file__).parents[3] / "agent/packaging/touchstone-agent.ps1"


def has_errors(text: str) -> bool:
    tree = Parser(Language(tree_sitter_powershell.language())).parse(text.encode())
    return tree.root_node.has_error


def test_it_is_powershell() -> None:
    assert not has_errors(SCRIPT.read_text())


@pytest.mark.parametrize("damage", [("{", ""), ("(", ""), ("@(", "@"), ("'", "")])
def test_a_script_that_is_none_is_seen(damage: tuple[str, str]) -> None:
    assert has_errors(SCRIPT.read_text().replace(*damage))


def test_nothing_is_registered_before_the_self_test_has_passed() -> None:
    text = SCRIPT.read_text()
    places = [
        text.index(words)
        for words in ("$doctor, 'doctor'", "if ($ended -ne 0)", "exit 1\n}\n\n# What", "Register-S")
    ]
    assert places == sorted(places)
