"""What strangers may say at most: whatever is accepted fits in a record, and leads nowhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from touchstone.stores.tables import to_item
from touchstone_agent.protocol.envelope import (
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    seal,
)
from touchstone_agent.protocol.facts import (
    ExitFacts,
    Gpu,
    GpuUsage,
    PreparedFacts,
    ProgressLine,
    RunnerVerdict,
    UploadedFile,
    Wire,
)
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    GrantsWanted,
    Inventory,
    PhaseChanged,
    Progress,
    Want,
)
from touchstone_agent.protocol.names import build_container_name, parse_container_name
from touchstone_agent.protocol.pods import PodState, PodUploadReport
from touchstone_agent.protocol.words import (
    MAX_FILES,
    MAX_PATHS_BYTES,
    Moment,
    UnsafePath,
    build_line,
    check_path,
    describe_refusal,
)

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
REF = {"submission_id": "s-1", "task_id": "i5", "attempt": 1, "fence": 1}
FILE = {"path": "a/b.txt", "sha256": "0" * 64, "size": 1}

ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**51 + 1, 2**63, 1e200, 1e-200, "\ud800", "../x", "/etc", "x" * 5000, -1])
    | st.datetimes().map(lambda at: at.isoformat()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)

GOOD: dict[type[Wire], dict[str, Any]] = {
    UploadedFile: FILE,
    Gpu: {"name": "L4", "memory_mib": 24_000},
    GpuUsage: {
        "name": "L4",
        "uuid": "GPU-1",
        "driver": "550.54",
        "mean_utilisation_percent": 3.5,
        "peak_memory_mib": 1,
        "memory_of": "trainer",
        "memory_mib": 24_000,
        "mean_power_watts": 70.5,
        "energy_joules": 1,
    },
    PreparedFacts: {"image": "trainer:1", "image_digest": "sha256:1"},
    ProgressLine: {"phase": "fit", "percent": 1, "eta_s": 2.5, "metrics": {"loss": 0.5}},
    RunnerVerdict: {
        "contract": 1,
        "exit_code": 0,
        "outcome": "succeeded",
        "class": "ok",
        "reason": None,
        "started_at": NOW.isoformat(),
        "ended_at": NOW.isoformat(),
        "usage": {"wall_seconds": 1.5, "cpu_seconds": 1, "peak_memory_bytes": 1, "gpu": None},
        "console": {"lines": 1, "bytes": 1, "kept_bytes": 1, "truncated": False},
        "files": [FILE],
    },
    ExitFacts: {
        "exit_code": 0,
        "oom_killed": False,
        "verdict": {"exit_code": 0},
        "no_verdict": None,
        "files": [FILE],
    },
    Inventory: {
        "slots": 1,
        "validation_slots": 1,
        "runtime": "docker",
        "agent_version": "1",
        "cpus": 1,
        "memory_mib": 1,
        "gpus": [
            {"index": 0, "name": "L4", "memory_mib": 1, "uuid": "u", "driver": "570", "shares": 2}
        ],
        "running": [[REF, "running"]],
    },
    PhaseChanged: {"ref": REF, "phase": "lost", "at": NOW.isoformat(), "reason": "gone"},
    Progress: {
        "ref": REF,
        "at": NOW.isoformat(),
        "phase": "fit",
        "percent": 1,
        "eta_seconds": 1,
        "metrics": {"loss": 1},
        "console_bytes": 1,
    },
    GrantsWanted: {
        "ref": REF,
        "purpose": "output",
        "wants": [{"path": "a", "sha256": "0" * 64, "size": 1}],
    },
    PodState: {
        "boot_id": "b",
        "ref": REF,
        "phase": "exited",
        "prepared_at": NOW.isoformat(),
        "running_at": NOW.isoformat(),
        "exited_at": NOW.isoformat(),
        "exit_code": 0,
        "problem": None,
        "wants_grants": ["content"],
        "verdict": {"exit_code": 0},
        "files": [FILE],
        "progress": {"percent": 1},
        "console_size": 3,
        "console": "eHl6",
        "gpus": [{"name": "L4", "memory_mib": 1, "driver": "570"}],
        "disk_free_bytes": 1,
        "lease_seconds_left": 1,
    },
    PodUploadReport: {"uploaded": ["a"], "expired": ["b"], "failed": {"c": "no"}},
}


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[type[Wire], Any]:
    """A good document with something odd anywhere in it."""
    model = draw(st.sampled_from(list(GOOD)))
    document = json.loads(json.dumps(GOOD[model]))
    place = document
    for _ in range(draw(st.integers(0, 3))):
        names = list(place) if isinstance(place, dict) else range(len(place))
        deeper = [n for n in names if isinstance(place[n], dict | list) and place[n]]
        if not deeper:
            break
        place = place[draw(st.sampled_from(deeper))]
    name: Any = draw(st.sampled_from(list(place) if isinstance(place, dict) else [0]))
    place[name] = draw(ODD)
    return model, document


@pytest.mark.parametrize("model", list(GOOD), ids=lambda model: model.__name__)
def test_what_is_good_is_accepted(model: type[Wire]) -> None:
    read = model.model_validate(GOOD[model])

    assert model.model_validate_json(read.model_dump_json(by_alias=True)) == read


@given(spoiled())
def test_what_is_odd_is_refused_or_fits_in_a_record(case: tuple[type[Wire], Any]) -> None:
    model, document = case
    problem = ""
    try:
        read = model.model_validate(document)
    except ValidationError as error:
        problem = describe_refusal(error)
    if problem:
        assert len(problem) <= 300
        return
    # The details of a phase are read with a model of their own before any of them is kept.
    told = read.model_dump(mode="json", by_alias=True, exclude={"details"})
    to_item({"told": told})
    assert len(json.dumps(told)) < 200_000


@given(st.text(max_size=40) | st.text("./\\ab\0", max_size=12))
def test_a_path_that_is_accepted_stays_below_its_folder(path: str) -> None:
    problem = ""
    try:
        check_path(path)
    except UnsafePath as error:
        problem = str(error)
    if problem:
        assert problem.isprintable()
        return
    assert not PurePosixPath(path).is_absolute()
    assert path.split("/") == list(PurePosixPath(path).parts), "one reading for everybody"
    assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a/.", "a//b", "a/"),
        *("a\\b", "\\\\host\\x", "a\0b", "a\nb", "a\x7fb", "a\u202eb", "\ud800", "x" * 513),
        *("é" * 257, "C:\\x", "a/\x1b[2J"),
    ],
    ids=lambda path: repr(path)[:20],
)
def test_a_path_that_could_lead_anywhere_else_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_path(path)


@pytest.mark.parametrize(
    "path", ["a", "models/long.h5", "charts/équité 1.png", "...", "a/..b", ".x"]
)
def test_a_plain_path_is_taken_as_it_is(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T10:00:00",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "now",
        "1e300",
    ],
)
def test_a_time_without_a_zone_or_of_another_age_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Moment).validate_python(text)


def test_a_time_of_any_zone_is_taken_as_utc() -> None:
    read = TypeAdapter(Moment).validate_python("2026-11-22T12:00:00+02:00")

    assert read.isoformat() == "2026-11-22T10:00:00+00:00"


@given(st.text(), st.integers(1, 50))
def test_a_line_is_printable_and_no_longer_than_it_may_be(text: str, limit: int) -> None:
    line = build_line(text, limit)

    assert line.isprintable()
    assert len(line) <= limit
    line.encode()


def make_files(count: int, length: int) -> list[dict[str, Any]]:
    paths = (f"{n:03}".ljust(length, "é") for n in range(count))
    return [{**FILE, "path": path} for path in paths]


def test_the_largest_end_fits_on_a_queue_and_in_a_record() -> None:
    # Letters of two bytes, which JSON in JSON writes with seven.
    length = MAX_PATHS_BYTES // MAX_FILES // 2
    facts = ExitFacts.model_validate({"exit_code": 0, "files": make_files(MAX_FILES, length)})
    private, _ = generate_key()
    event = PhaseChanged(
        ref=AttemptRef.model_validate(REF), phase=AttemptPhase.EXITED, at=NOW, details=facts.dump()
    )
    header = Header(message_id="m", env="dev", server="s", issued_at=NOW, expires_at=NOW)

    seal(EventMessage(header=header, body=event), "s", load_private_key(private))
    assert len(json.dumps(facts.dump()).encode()) < 200_000


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (make_files(MAX_FILES + 1, 3), "more than 500 files"),
        (make_files(MAX_FILES, 60), "more than 32768 bytes"),
        ([FILE, FILE], "twice"),
        ([{**FILE, "path": "a"}, {**FILE, "path": "a/b"}], "inside of another"),
    ],
    ids=["many", "long", "twice", "folder"],
)
def test_files_that_no_folder_could_have_are_refused(files: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ExitFacts.model_validate({"exit_code": 0, "files": files})


def test_a_want_that_is_no_path_is_read_so_that_it_can_be_refused_by_name() -> None:
    """An older agent that heard nothing of it would ask again for ever."""
    assert Want.model_validate({"path": "a\\b"}).path == "a\\b"


@pytest.mark.parametrize(
    "name",
    [
        "touchstone-dev-x-FOO-1-1",
        "touchstone-dev-x-i5-1-" + "9" * 5000,
        "touchstone-dev-x-i5-\u0661-1",
        "touchstone-dev-x-i_5-1-1",
        "touchstone-dev--1-1",
        "touchstone-dev-",
    ],
    ids=lambda name: repr(name)[:32],
)
def test_a_name_that_only_begins_like_ours_is_none_of_ours(name: str) -> None:
    """One pod of that name kept the reaper from looking at all others."""
    assert parse_container_name("dev", name) is None


@given(st.text("touchsne-dv12iA_", max_size=40))
def test_any_name_is_ours_or_not(name: str) -> None:
    found = parse_container_name("dev", f"touchstone-dev-{name}")

    assert found is None or build_container_name("dev", *found) == f"touchstone-dev-{name}"


def test_more_figures_than_a_hundred_are_left_out() -> None:
    line = ProgressLine.model_validate({"metrics": {f"m{n}": n for n in range(1000)}})

    assert len(line.metrics) == 100
