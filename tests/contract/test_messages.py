"""
Every message as it is on the wire, kept in ``golden/``.

A peer that is older or newer than this side sends these very bytes: they must stay readable, and
what this side writes must stay what they say. ``golden/v1`` is never edited, only added to.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from touchstone_agent.core.attempts import LEGAL_MOVES
from touchstone_agent.evidence import read_verdict
from touchstone_agent.protocol.envelope import (
    CommandMessage,
    EventMessage,
    load_private_key,
    load_public_key,
    open_command,
    open_event,
    seal,
)
from touchstone_agent.protocol.facts import ExitFacts, RunnerVerdict
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    PROTOCOL_VERSION,
    AttemptPhase,
    Command,
    Event,
)
from touchstone_agent.protocol.pods import PodPoll, PodStart, PodState, PodUpload, PodUploadReport

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = sorted((GOLDEN / "v1/commands").glob("*.json"))
EVENTS = sorted((GOLDEN / "v1/events").glob("*.json"))
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)

# Keys of nothing: they sign these files only.
KEYS = json.loads((GOLDEN / "v1/keys.json").read_text())


def kinds(union: Any) -> set[str]:
    schema = TypeAdapter(union).json_schema()
    return set(schema["discriminator"]["mapping"])


def test_every_kind_of_message_has_its_golden_file() -> None:
    assert {path.stem.partition(".")[0] for path in COMMANDS} == kinds(Command)
    assert {path.stem.partition(".")[0] for path in EVENTS} == kinds(Event)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_is_read_and_written_as_before(path: Path) -> None:
    written = json.loads(path.read_text())

    message = CommandMessage.model_validate(written)

    assert json.loads(message.model_dump_json()) == written


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_an_event_is_read_and_written_as_before(path: Path) -> None:
    written = json.loads(path.read_text())

    message = EventMessage.model_validate(written)

    assert json.loads(message.model_dump_json()) == written


def add_fields(value: Any) -> Any:
    """Add a field nobody knows to every object."""
    if isinstance(value, dict):
        return {**{k: add_fields(v) for k, v in value.items()}, "added_later": {"x": 1}}
    return value


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_fields_that_a_newer_control_plane_adds_are_tolerated(path: Path) -> None:
    written = json.loads(path.read_text())
    newer = add_fields(written)
    for free in ("environment", "grants", "refused"):
        if free in newer["body"]:
            newer["body"][free] = written["body"][free]

    assert CommandMessage.model_validate(newer) == CommandMessage.model_validate(written)


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_fields_that_a_newer_agent_adds_are_tolerated(path: Path) -> None:
    written = json.loads(path.read_text())
    newer = {
        "header": add_fields(written["header"]),
        "body": {**written["body"], "added_later": 1},
    }

    assert EventMessage.model_validate(newer) == EventMessage.model_validate(written)


def test_a_sealed_command_of_version_1_stays_readable() -> None:
    text = (GOLDEN / "v1/sealed_command.json").read_text().strip()
    keys = {"control": load_public_key(KEYS["control_public"])}

    message = open_command(text, keys=keys, env="dev", server="gpu-1", now=NOW)

    assert message == CommandMessage.model_validate_json(
        (GOLDEN / "v1/commands/cancel.json").read_text()
    )


def test_a_sealed_event_of_version_1_stays_readable_and_is_sealed_alike() -> None:
    text = (GOLDEN / "v1/sealed_event.json").read_text().strip()
    keys = {"gpu-1": load_public_key(KEYS["server_public"])}

    message = open_event(text, keys=keys, env="dev", now=NOW)

    # Ed25519 has no random part: the same message has the same signature.
    assert seal(message, "gpu-1", load_private_key(KEYS["server_private"])) == text


def test_a_verdict_of_contract_1_stays_readable(tmp_path: Path) -> None:
    content = (GOLDEN / "v1/verdict.json").read_text()
    (tmp_path / "verdict.json").write_text(content)

    verdict = read_verdict(tmp_path, output_bytes=1024**3)

    assert isinstance(verdict, RunnerVerdict)
    written = json.loads(content)
    assert len(verdict.files) == len(written.pop("files")) == 3
    told = verdict.dump()
    for name in ("started_at", "ended_at"):
        assert datetime.fromisoformat(told.pop(name)) == datetime.fromisoformat(written.pop(name))
    assert told == written


def test_the_version_and_the_phases_are_those_of_the_golden_files() -> None:
    assert PROTOCOL_VERSION == 1
    assert [phase.value for phase in AttemptPhase] == [
        "accepted",
        "rejected",
        "preparing",
        "running",
        "exited",
        "uploaded",
        "cancelled",
        "lost",
    ]
    assert set(LEGAL_MOVES) == set(AttemptPhase)
    assert {phase.value for phase in FINAL_PHASES} == {"rejected", "uploaded", "cancelled", "lost"}


PODS = sorted((GOLDEN / "v1/pods").glob("*.json"))
POD_MESSAGES = {
    "start": PodStart,
    "poll": PodPoll,
    "state": PodState,
    "upload": PodUpload,
    "report": PodUploadReport,
}


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.stem)
def test_what_a_pod_of_version_1_says_and_hears_stays_readable(path: Path) -> None:
    written = json.loads(path.read_text())
    message = POD_MESSAGES[path.stem.partition(".")[0]].model_validate(written)

    told = json.loads(message.model_dump_json(by_alias=True))

    if isinstance(message, PodState):
        # Of what a trainer wrote the rest is left out.
        (written["progress"] or {}).pop("t", None)
        _read_times(written.get("verdict") or {})
        _read_times(told.get("verdict") or {})
    assert told == written


def _read_times(verdict: dict[str, Any]) -> None:
    for name in verdict.keys() & {"started_at", "ended_at"}:
        verdict[name] = datetime.fromisoformat(verdict[name])


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.stem)
def test_fields_that_a_newer_pod_adds_are_tolerated(path: Path) -> None:
    written = json.loads(path.read_text())
    model = POD_MESSAGES[path.stem.partition(".")[0]]
    newer = add_fields(written)
    for free in ("environment", "grants", "failed"):
        if free in newer:
            newer[free] = written[free]

    assert model.model_validate(newer) == model.model_validate(written)


@pytest.mark.parametrize(
    "path", [path for path in EVENTS if "exited" in path.stem or "uploaded" in path.stem]
)
def test_the_end_of_an_attempt_of_version_1_stays_readable(path: Path) -> None:
    details = json.loads(path.read_text())["body"]["details"]

    facts = ExitFacts.model_validate(details)

    assert [file.model_dump() for file in facts.files] == details.get("files", [])
    assert facts.exit_code == details.get("exit_code")
    assert (facts.verdict is None) == (details.get("verdict") is None)
    told = facts.dump()
    assert ExitFacts.model_validate(told).dump() == told
    # The version before reads the class and the reason of the verdict, and the files beside it.
    if facts.verdict is not None:
        assert told["verdict"]["class"] == details["verdict"]["class"]
        assert told["verdict"]["outcome"] == details["verdict"]["outcome"]
