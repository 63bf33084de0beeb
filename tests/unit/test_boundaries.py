"""Boundaries that the import contracts cannot express."""

from __future__ import annotations

import ast
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

    assert {name.rpartition("/")[0] for name in knowing} == {"dispatcher/metadata"}
