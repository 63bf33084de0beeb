"""The page about operators for one's own DAGs tells all that they take."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from touchstone.operators.programs import AgentOperator, ProgramOperator, RunPodOperator

PAGE = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("operator", [ProgramOperator, AgentOperator, RunPodOperator])
def test_every_argument_has_a_row(operator):
    told = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE)
    rows = {name.strip("` ") for row in told for name in row.split(",")}
    taken = inspect.signature(operator.__init__).parameters.values()
    names = {each.name for each in taken if each.kind is each.KEYWORD_ONLY}

    assert names
    assert names <= rows


def test_the_example_in_it_is_the_imports_that_there_are():
    (code,) = (
        found for found in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "import" in found
    )
    names: dict[str, object] = {}

    exec(code, names)  # it makes both tasks

    assert names["on_server"].pool == "gpu-1"
    assert names["in_pod"].pool == "runpod"
