"""What an attempt may come to, and in which words it is told that it has gone beyond."""

from __future__ import annotations

import pytest

from touchstone_agent.core.limits import (
    MAX_DEPTH,
    MAX_FILES,
    MAX_HANDLES,
    OUTPUT_SLACK_BYTES,
    PREPARE_SECONDS,
    Usage,
    build_allowance,
    build_limit_facts,
    find_excess,
    limit_preparation,
)
from touchstone_agent.protocol.messages import Limits

LIMITS = Limits(output_bytes=5 * 1024**2, console_bytes=1024**2)
MOST_BYTES = 6 * 1024**2 + OUTPUT_SLACK_BYTES


def test_an_output_folder_holds_output_console_and_what_the_runner_writes() -> None:
    assert build_allowance(LIMITS).bytes == MOST_BYTES


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (Usage(bytes=MOST_BYTES, files=MAX_FILES, depth=MAX_DEPTH, handles=MAX_HANDLES), None),
        (Usage(bytes=MOST_BYTES + 1), "output limit: stopped after more than 5 MiB"),
        (Usage(files=MAX_FILES + 1), "output limit: stopped after more than 10000 files"),
        (Usage(depth=MAX_DEPTH + 1), "output limit: stopped, with folders more than 32 deep"),
        (
            Usage(handles=MAX_HANDLES + 1),
            "output limit: stopped, with more than 200000 open files and mappings",
        ),
        (
            Usage(closed="secret"),
            "output limit: stopped, with a folder that nobody can look into: secret",
        ),
    ],
)
def test_the_limit_that_is_exceeded_is_named(usage: Usage, reason: str | None) -> None:
    assert find_excess(usage, build_allowance(LIMITS)) == reason


def test_an_end_from_outside_is_the_users_limit_without_any_file() -> None:
    facts = build_limit_facts("time limit: stopped after 5 s")

    assert (facts["exit_code"], facts["files"]) == (3, [])
    assert facts["verdict"]["class"] == "limit"
    assert facts["verdict"]["outcome"] == "failed"


def test_a_preparation_takes_no_longer_than_its_attempt_may_nor_for_ever() -> None:
    assert limit_preparation(Limits(wall_seconds=60)).wall_seconds == 60
    assert limit_preparation(Limits(wall_seconds=86_400)).wall_seconds == PREPARE_SECONDS
