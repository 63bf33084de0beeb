"""No word that the glossary has replaced comes back."""

from __future__ import annotations

import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
ELSEWHERE = ("docs/glossary.md", "docs/adr/", "docs/changes.md", "include/", "judge/")
"""Where old words may stand: decisions say what was, and other projects have words of their own."""
OURS = ("plugins/", "agent/", "dags/", "scripts/")
"""Where no name may be an old word; tests may call a stranger so."""


def list_cells():
    rows = [line.split("|") for line in GLOSSARY.read_text(encoding="utf-8").splitlines()]
    return [row[3] for row in rows if len(row) == 5]


def list_old_words():
    return sorted({word for cell in list_cells() for word in re.findall(r"`(\w+)`", cell)})


def list_old_phrases():
    return sorted({phrase for cell in list_cells() for phrase in re.findall(r'"([^"]+)"', cell)})


def list_texts():
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith(ELSEWHERE) and (ROOT / name).is_file():
            yield name, (ROOT / name).read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def texts():
    found = dict(list_texts())
    assert len(found) > 500
    return found


@pytest.fixture(scope="module")
def names(texts):
    """Return the names in our code, each with the files that have it."""
    found: dict[str, set[str]] = {}
    for path in texts:
        if path.startswith(OURS) and path.endswith(".py"):
            with tokenize.open(ROOT / path) as stream:
                for token in tokenize.generate_tokens(stream.readline):
                    if token.type == tokenize.NAME:
                        found.setdefault(token.string.lstrip("_"), set()).add(path)
    assert {"submission_id", "PodContext"} <= set(found)
    return found


def test_there_are_old_words_to_look_for():
    assert {"PodDesk", "TaskBook", "Workshop", "give_back", "desk"} <= set(list_old_words())
    assert {"waiting room", "on deck"} <= set(list_old_phrases())


@pytest.fixture(scope="module")
def old_words(texts, names):
    """Return the old words that are names in a text, each with the files that have it."""
    words = "|".join(list_old_words())
    # In prose "like" and "demand" are English. A method called so is somebody else's.
    pattern = re.compile(rf"\b(?:class|def) ({words})\b|`({words})`|\bimport [^\n]*\b({words})\b")
    found = {word: names.get(word, set()) for word in list_old_words()}
    for name, text in texts.items():
        for groups in pattern.findall(text):
            found["".join(groups)] |= {name}
    return found


@pytest.mark.parametrize("word", list_old_words())
def test_a_word_that_was_replaced_does_not_come_back(old_words, word):
    assert sorted(old_words[word]) == []


@pytest.mark.parametrize("phrase", list_old_phrases())
def test_a_phrase_that_was_replaced_does_not_come_back(texts, phrase):
    # Not within a name: links to decisions and stored names keep it.
    pattern = re.compile(rf"(?<![\w-]){phrase}(?![\w-])", re.IGNORECASE)
    own = "tests/unit/test_glossary.py"

    assert [name for name, text in texts.items() if name != own and pattern.search(text)] == []


PROSE = ("plugins/", "agent/", "dags/", "scripts/", "docs/", "judge/src/", "include/elnigma/src/")
"""Where sentences have a concrete subject; names of tests may be anything."""


@pytest.mark.parametrize("phrase", ["whoever", "nobody's", "had of late"])
def test_sentences_name_who_acts(phrase):
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pattern = re.compile(rf"\b{phrase}\b", re.IGNORECASE)
    found = [
        f"{name}:{number}"
        for name in listed.stdout.splitlines()
        if name.startswith(PROSE) and (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found
