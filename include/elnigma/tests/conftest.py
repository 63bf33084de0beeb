"""Shared fixtures: folders, and attempts run by the real runner in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


SEED = os.environ.get("TOUCHSTONE_CAMPAIGN_SEED", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "campaign(sample): one in so many, unless all are asked for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one in a few tests of a campaign, as the tests of the whole repository do."""
    if os.environ.get("TOUCHSTONE_CAMPAIGNS") == "full":
        return
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _is_left_out(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("campaign")
    if marker is None:
        return False
    digest = hashlib.sha256(f"{SEED} {item.nodeid}".encode()).digest()
    return bool(int.from_bytes(digest) % int(marker.kwargs["sample"]))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What an attempt left behind."""

    exit_code: int
    out: Path
    verdict: dict[str, Any]

    @property
    def console(self) -> str:
        return (self.out / "console.log").read_text(errors="replace")

    @property
    def result(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "result.json").read_text())
        return document


def build_environment(out: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a runner; ``variables`` are given without TOUCHSTONE_."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(out),
        "LANG": "C.UTF-8",
        "TOUCHSTONE_OUT": str(out),
        **{f"TOUCHSTONE_{name}": value for name, value in variables.items()},
    }


@pytest.fixture
def run_attempt(tmp_path: Path) -> Callable[..., Run]:
    """Run the runner with arguments for the trainer, and return what it left."""

    def run(
        *arguments: str,
        name: str = "out",
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> Run:
        out = tmp_path / name
        out.mkdir()
        finished = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "elnigma_runner",
                arguments[0],
                "--out",
                str(out),
                *arguments[1:],
            ],
            env=build_environment(out, **variables) | dict(environment or {}),
            check=False,
        )
        verdict = json.loads((out / "verdict.json").read_text())
        return Run(exit_code=finished.returncode, out=out, verdict=verdict)

    return run


@pytest.fixture
def run_script(tmp_path: Path, run_attempt: Callable[..., Run]) -> Callable[..., Run]:
    """Run the runner with a Python script in the trainer's place."""

    def run(
        source: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> Run:
        script = tmp_path / "trainer"
        script.write_text(f"#!{sys.executable} -P\n{source}\n")
        script.chmod(0o755)
        return run_attempt(
            *(arguments or ("validate",)),
            environment=environment,
            TRAINER=str(script),
            **variables,
        )

    return run


# A trainer that keeps the contract of ``validate``; scripts add to it.
GOOD_VALIDATION = """
import json, os, pathlib
out = pathlib.Path(os.environ["TOUCHSTONE_OUT"])
(out / "result.json").write_text(json.dumps({"contract": 1, "validated": True}))
"""
