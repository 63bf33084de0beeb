"""Boundaries that the import contracts cannot express."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import touchstone

PACKAGE = Path(touchstone.__file__).parent
AIRFLOWS_TABLES = ("airflow.models", "airflow.utils.session", "airflow.api.common")


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_one_package_alone_knows_airflows_tables():
    knowing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for name in imports_of(path)
        if name.startswith(AIRFLOWS_TABLES)
    }

    assert {name.rpartition("/")[0] for name in knowing} == {"airflow_db"}


ANY_TABLE = re.compile(r"\b(?:dict|Mapping|MutableMapping)\[str, Any\]")


def test_a_table_of_anything_stays_in_the_module_that_talks_to_an_untyped_library():
    found = {
        path.relative_to(PACKAGE).as_posix(): len(ANY_TABLE.findall(path.read_text()))
        for path in PACKAGE.rglob("*.py")
    }

    assert sum(found.values()) <= 40
    assert {name for name, count in found.items() if count} == {
        # Options of an HTTP client.
        "hooks/runpod/rest.py",
        # What RunPod's own client returns.
        "hooks/runpod/sdk.py",
    }


def test_no_name_stands_for_a_table_of_anything():
    aliases = {
        f"{path.relative_to(PACKAGE).as_posix()}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r"\w+(?:: TypeAlias)? = .*\bAny\]", line)
    }

    assert aliases == set()
