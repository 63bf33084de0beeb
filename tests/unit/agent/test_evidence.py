"""Verdicts and progress are read with suspicion."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from fakes.agent_world import NOW, make_ref
from touchstone_agent.evidence import (
    MAX_VERDICT_BYTES,
    ProgressReader,
    parse_progress,
    read_verdict,
)
from touchstone_agent.protocol.facts import RunnerVerdict

FILE = {"path": "models/long.h5", "sha256": "0" * 64, "size": 3}


def write_verdict(out: Path, **fields: object) -> None:
    (out / "verdict.json").write_text(json.dumps({"exit_code": 0, "files": [FILE], **fields}))


def test_a_verdict_is_read_with_its_files(tmp_path: Path) -> None:
    write_verdict(tmp_path, outcome="succeeded", new_field=1)

    verdict = read_verdict(tmp_path, output_bytes=10)

    assert isinstance(verdict, RunnerVerdict)
    assert verdict.outcome == "succeeded"
    assert "new_field" not in verdict.dump(), "nobody knows what it means, or how large it is"
    assert [file.path for file in verdict.files] == ["models/long.h5"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"exit_code": None}, "no exit code"),
        ({"files": [{**FILE, "path": "../x"}]}, "leads out"),
        ({"files": [{**FILE, "path": "/etc/passwd"}]}, "leads out"),
        ({"files": [{**FILE, "size": -1}]}, "not usable"),
        ({"files": "many"}, "not usable"),
        ({"files": [{**FILE, "size": 11}]}, "more than"),
        ({"files": [{**FILE, "size": 0}] * 501}, "more than"),
        ({"usage": math.nan}, "not usable"),
        ({"reason": "x" * MAX_VERDICT_BYTES}, "more than"),
        ({"files": [FILE, FILE]}, "twice"),
        ({"files": [FILE, {**FILE, "path": "models"}]}, "inside of another"),
        ({"files": [{**FILE, "path": "a\\b"}]}, "backslash"),
        ({"files": [{**FILE, "path": "a\nb"}]}, "unprintable"),
        ({"files": [{**FILE, "path": "a//b"}]}, "without a name"),
        ({"files": [{**FILE, "path": "x" * 513}]}, "more than 512 bytes"),
        ({"files": [{**FILE, "sha256": "0" * 63}]}, "files.0.sha256"),
        ({"files": [{**FILE, "sha256": "G" * 64}]}, "files.0.sha256"),
        ({"files": [{**FILE, "size": 6 * 1024**3}]}, "files.0.size"),
        ({"exit_code": 256}, "exit_code"),
        ({"x": 10**50 + 1}, "beyond 64 bits"),
        ({"reason": "\ud800"}, "UTF-8"),
        ({"class": "x" * 41}, "class"),
        ({"started_at": "2026-11-22T10:00:00"}, "started_at"),
        ({"usage": {"cpu_seconds": 1e-200}}, "usage.cpu_seconds"),
    ],
)
def test_a_verdict_that_cannot_be_trusted_is_none(
    fields: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_verdict(tmp_path, **fields)

    found = read_verdict(tmp_path, output_bytes=10)

    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_verdict_that_is_not_json_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text(text)

    assert isinstance(read_verdict(tmp_path, output_bytes=10), str)


def test_no_verdict_is_said(tmp_path: Path) -> None:
    assert "no verdict.json" in str(read_verdict(tmp_path, output_bytes=10))


def test_a_verdict_behind_a_link_is_none(tmp_path: Path) -> None:
    write_verdict(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/verdict.json").symlink_to(tmp_path / "verdict.json")

    assert isinstance(read_verdict(tmp_path / "out", output_bytes=10), str)


def test_only_the_latest_whole_line_is_news(tmp_path: Path) -> None:
    reader = ProgressReader(make_ref(), tmp_path)
    file = tmp_path / "progress.jsonl"
    assert reader.find_news(NOW, 0) is None
    file.write_text('{"phase":"fit","percent":1}\n{"phase":"fit","percent":2}\n{"phase":"fi')

    news = reader.find_news(NOW, 7)

    assert news is not None
    assert (news.percent, news.console_bytes) == (2, 7)
    assert reader.find_news(NOW, 7) is None
    with file.open("a") as more:
        more.write('t","percent":3}\n')
    later = reader.find_news(NOW, 7)
    assert later is not None
    assert later.percent == 3


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"3", b"[1]", b"\xff\xfe", b'{"percent": NaN}', b'{"percent": 1e999}'),
        *(b'{"phase": "\\ud800"}', b'{"percent": 1' + b"0" * 50 + b"}", b"[" * 60_000),
    ],
)
def test_a_line_that_is_not_progress_is_none(line: bytes) -> None:
    assert parse_progress(line, make_ref(), now=NOW, console_bytes=0) is None


def test_wild_figures_are_tamed() -> None:
    line = json.dumps(
        {
            "phase": 5,
            "percent": 1e9,
            "eta_s": "soon",
            "metrics": {"loss": 1e200, "name": "x", "ok": 1, "flag": True, "tiny": 1e-200},
        }
    ).encode()

    news = parse_progress(line, make_ref(), now=NOW, console_bytes=0)

    assert news is not None
    assert (news.phase, news.percent, news.eta_seconds) == ("5", 100, None)
    assert news.metrics == {"ok": 1}
    news.model_validate_json(news.model_dump_json())


def test_a_verdict_that_the_exit_code_contradicts_is_none(tmp_path: Path) -> None:
    """Submitted code may write a verdict of its own and then kill the runner."""
    write_verdict(tmp_path)

    found = read_verdict(tmp_path, output_bytes=10, exit_code=137)

    assert found == "verdict.json says 0, the container ended with 137"
    assert isinstance(read_verdict(tmp_path, output_bytes=10, exit_code=0), RunnerVerdict)


def test_a_reason_for_people_is_made_one_line_and_cut(tmp_path: Path) -> None:
    write_verdict(tmp_path, reason="first\nsecond\x07 " + "x" * 1000)

    found = read_verdict(tmp_path, output_bytes=10)

    assert isinstance(found, RunnerVerdict)
    assert found.reason is not None
    assert found.reason.startswith("first second xxx")
    assert len(found.reason) == 500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")
def test_a_verdict_that_the_trainer_has_written_is_none(tmp_path: Path) -> None:
    """Where they are two users, the folder is the runner's, and so is what it writes."""
    write_verdict(tmp_path)
    os.chown(tmp_path / "verdict.json", 65534, 65534)

    found = read_verdict(tmp_path, output_bytes=10, exit_code=0)

    assert found == "verdict.json was not written by the runner"
