"""Attempts on data that stay here: what is taken, what is told of them, and what is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from fakes.agent_world import make_attempt, make_start
from touchstone_agent import private_judging
from touchstone_agent.adapters.judge import JudgeFailed
from touchstone_agent.adapters.private import HeldFolder, PrivateStore
from touchstone_agent.core.attempts import build_phase_event
from touchstone_agent.core.ports import Exit, HostLacks, LaunchSpec
from touchstone_agent.core.private import LOST
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    PhaseChanged,
    Progress,
    Refusal,
    SlotClass,
)
from touchstone_agent.protocol.private import HeldData, JudgeRules, PrivateData, ServerJudged
from touchstone_agent.settings import AgentSettings, load_settings
from touchstone_agent.supervisor import Supervisor

from .conftest import AgentWorld

PRICE = "1.23456789"
TEXT = b'file = "prices.csv"\n[rows]\nvalidation_from = 2017-10-01\ntest_from = 2017-12-01\n'
BODY = f"time,close\n2017-10-01,{PRICE}\n".encode()
DIGEST = hashlib.sha256(TEXT + BODY).hexdigest()
HELD = HeldData(name="prices", version="1", digest=DIGEST)


def build_wanted(**changes: object) -> PrivateData:
    rules = JudgeRules.model_validate(
        {
            "version": 1,
            "data_name": "prices 1",
            "data_sha256": DIGEST,
            "validation_from": "2017-10-01",
            "test_from": "2017-12-01",
            "cost_bps": 1.0,
            "bars_per_year": 252,
            "resamples": 1000,
            **changes,
        }
    )
    return PrivateData(**HELD.model_dump(), interval=5, rules=rules)


WANTED = build_wanted()
ANSWER = {
    "judged": True,
    "judge": "0.1.0",
    "metrics": {"net_sharpe": 1.23456789, "net_sharpe_low": None},
    "beta": 0.987654321,
    "active_sharpe": 0.55555555,
    "net": [0.1] * 3,
    "time": ["2017-12-01"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "owners"
    folder.mkdir()
    (folder / "data.toml").write_bytes(TEXT)
    (folder / "prices.csv").write_bytes(BODY)
    return folder


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> PrivateStore:
    return PrivateStore(
        [HeldFolder(held=HELD, folder=folder)],
        kept_dir=tmp_path / "kept",
        judge_python=Path("/judge/python"),
    )


@pytest.fixture
def private_world(world: AgentWorld, store: PrivateStore) -> AgentWorld:
    object.__setattr__(world.context, "private", store)
    return world


def leave(spec: LaunchSpec) -> Exit:
    """Do what a training does that prints prices wherever it can."""
    out = spec.folder / "out"
    assert (spec.folder / "in/data/prices.csv").read_bytes() == BODY
    files = []
    for path in ("result.json", "predictions.csv", f"{PRICE}.csv", "models/long.h5"):
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_text(PRICE)
        body = PRICE.encode()
        files.append({"path": path, "sha256": hashlib.sha256(body).hexdigest(), "size": len(body)})
    (out / "console.log").write_text(PRICE)
    (out / "progress.jsonl").write_text(json.dumps({"phase": PRICE, "percent": 12.3}) + "\n")
    verdict = {"exit_code": 0, "outcome": "succeeded", "class": "ok", "files": files}
    (out / "verdict.json").write_text(json.dumps(verdict))
    return Exit(exit_code=0)


def run(world: AgentWorld, supervised: list[Supervisor], work=leave, **start: object) -> list:
    world.runtime._work = work
    world.order(make_start(**{"private_data": WANTED, **start}))
    supervised[-1].run()
    return world.tell()


def test_figures_are_told_and_all_else_is_kept_here(
    private_world, supervised, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        private_judging, "ask_judge", lambda python, question: asked.append(question) or ANSWER
    )

    told = run(private_world, supervised)

    phases = [body for body in told if isinstance(body, PhaseChanged)]
    assert [body.phase for body in phases] == [
        *("accepted", "preparing", "running", "exited", "uploaded")
    ]
    judged = phases[-1].details["judged"]
    assert judged["metrics"] == {"net_sharpe": 1.2346, "net_sharpe_low": None}
    assert (judged["beta"], judged["active_sharpe"]) == (0.9877, 0.5556)
    assert judged["models"] == {"long": hashlib.sha256(PRICE.encode()).hexdigest()}
    assert judged["rules_sha256"] == WANTED.rules.sha256
    assert not any(isinstance(body, Progress) for body in told)
    assert PRICE not in "".join(body.model_dump_json() for body in told)
    assert private_world.store.objects == {}
    (kept,) = (tmp_path / "kept").iterdir()
    assert (kept / "console.log").read_text() == PRICE
    assert (kept / "models/long.h5").exists()
    # The judge read copies, which no link of the training's leads out of, and those are gone.
    assert asked[0]["data_dir"] == str(tmp_path / "owners")
    assert not Path(asked[0]["predictions"]).exists()


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (f"other rows (predictions.csv: {PRICE} is missing)", "other rows"),
        (f"other data (data.sha256 is {PRICE})", "other data"),
        (
            f"net_sharpe: result.json says {PRICE}, its predictions give 1",
            "other figures than its predictions give",
        ),
        (f"predictions.csv: line {PRICE} is odd", "files that cannot be judged"),
    ],
)
def test_why_it_is_not_judged_is_told_in_words_of_a_list(
    reason, told, private_world, supervised, monkeypatch
):
    answer = {"judged": False, "judge": "0.1.0", "reason": reason}
    monkeypatch.setattr(private_judging, "ask_judge", lambda *_: answer)

    sent = run(private_world, supervised)

    assert sent[-1].details["judged"]["reason"] == told
    assert PRICE not in "".join(body.model_dump_json() for body in sent)


def test_a_judge_that_cannot_run_loses_nothing_else(private_world, supervised, monkeypatch):
    def fail(*_):
        raise JudgeFailed(f"it ended with code 2: {PRICE}")

    monkeypatch.setattr(private_judging, "ask_judge", fail)

    sent = run(private_world, supervised)

    assert sent[-1].phase is AttemptPhase.UPLOADED
    assert sent[-1].details["judged"]["reason"] == "the judge could not run"
    assert PRICE not in sent[-1].model_dump_json()


def test_a_failure_is_told_by_its_class_alone(private_world, supervised, tmp_path):
    def fail(spec: LaunchSpec) -> Exit:
        out = spec.folder / "out"
        verdict = {
            "exit_code": 3,
            "outcome": "failed",
            "class": "submission",
            "reason": PRICE,
            "usage": {"wall_seconds": float(PRICE)},
            "started_at": "2026-12-01T00:00:00Z",
        }
        (out / "verdict.json").write_text(json.dumps(verdict))
        return Exit(exit_code=3)

    sent = run(private_world, supervised, work=fail)

    details = sent[-1].details
    assert (details["exit_code"], details["verdict"]["class"]) == (3, "submission")
    assert details["verdict"]["usage"] is details["verdict"]["started_at"] is None
    assert "judged" not in details
    assert PRICE not in "".join(body.model_dump_json() for body in sent)
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_words_and_codes_of_no_list_become_unknown():
    verdict = {"exit_code": 77, "outcome": "failed", "class": "p123456", "reason": PRICE}
    details = {
        "exit_code": 77,
        "verdict": verdict,
        "no_verdict": PRICE,
        "files": [{"path": PRICE, "sha256": "0" * 64, "size": 1}],
        "container": PRICE,
    }
    start = make_start(private_data=WANTED)

    for phase in (AttemptPhase.EXITED, AttemptPhase.UPLOADED):
        event = build_phase_event(make_attempt(phase=phase, start=start, details=details))

        assert event.details["exit_code"] == 1
        assert event.details["verdict"]["class"] == "unknown"
        assert event.details["files"] == []
        assert PRICE not in event.model_dump_json()
    lost = make_attempt(phase=AttemptPhase.LOST, start=start, reason=PRICE, details={"x": PRICE})
    assert build_phase_event(lost).reason == LOST
    assert build_phase_event(lost).details == {}


def test_what_it_has_compiled_reaches_no_later_training(private_world, supervised, monkeypatch):
    monkeypatch.setattr(private_judging, "ask_judge", lambda *_: ANSWER)

    def compile_something(spec: LaunchSpec) -> Exit:
        assert "TOUCHSTONE_COMPILED_BYTES" not in spec.environment
        (spec.folder / "out/compiled.tar").write_text(PRICE)
        return leave(spec)

    run(private_world, supervised, work=compile_something)

    compiled = private_world.folder / "compiled"
    assert not compiled.exists() or not list(compiled.iterdir())


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ({"network": True}, "do not go together"),
        (
            {"private_data": WANTED.model_copy(update={"digest": "0" * 64})},
            "does not hold prices 1",
        ),
    ],
)
def test_what_is_not_held_or_has_the_network_is_not_taken(start, reason, private_world):
    private_world.order(make_start(**{"private_data": WANTED, **start}))

    (told,) = private_world.tell()
    assert told.phase is AttemptPhase.REJECTED
    assert told.details == {"refusal": "data"}
    assert reason in told.reason


def test_a_validation_is_told_of_without_a_figure(private_world, supervised):
    sent = run(private_world, supervised, slot_class=SlotClass.VALIDATION)

    assert sent[-1].details["verdict"]["outcome"] == "succeeded"
    assert "judged" not in sent[-1].details


def test_other_rows_than_the_data_sets_own_are_judged_nowhere(store, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    store.stage(WANTED, inputs)
    assert (inputs / "data/data.toml").read_bytes() == TEXT
    for changes in (
        {"test_from": "2017-12-02"},
        {"test_to": "2017-12-03"},
        {"validation_from": "2017-10-02"},
        {"data_sha256": "0" * 64},
    ):
        with pytest.raises(HostLacks, match="own rows alone") as refused:
            store.stage(build_wanted(**changes), inputs)
        assert refused.value.refusal is Refusal.DATA


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT + b"# more\n", "another content"),
        (TEXT.replace(b"prices.csv", b"../prices.csv"), "no plain name"),
        (TEXT.replace(b"2017-10-01", b'"2017-10-01"'), "validation_from is no day"),
        (b"\xff", "cannot be read here"),
        (TEXT.replace(b"prices.csv", b"none.csv"), "No such file"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_given_to_nobody(
    text, reason, store, folder, tmp_path
):
    (folder / "data.toml").write_bytes(text)
    inputs = tmp_path / "in"
    inputs.mkdir()

    with pytest.raises(HostLacks, match=reason):
        store.stage(WANTED, inputs)
    assert [label for label, _ in store.find_problems()] == ["prices 1"]


def test_the_inventory_tells_what_is_held(private_world):
    inventory = private_world.agent.build_inventory()

    assert inventory.private_data == (HELD,)
    assert "private_data" not in inventory.model_copy(update={"private_data": ()}).model_dump()


def build_settings(**fields: object) -> AgentSettings:
    return AgentSettings.model_validate(
        {
            "env": "dev",
            "server": "box",
            "state_dir": "/s",
            "private_key_file": "/k",
            "control_public_key": "x",
            "images_allowed": ["*"],
            "private_data": [{**HELD.model_dump(), "folder": "/data"}],
            **fields,
        }
    )


def test_private_data_need_a_judge_and_isolation():
    judge = {"python": "/judge/python"}
    assert build_settings(judge=judge).private_data[0].held == HELD
    with pytest.raises(ValidationError, match=r"needs judge\.python"):
        build_settings()
    process = {"command": ["/bin/true"]}
    with pytest.raises(ValidationError, match="isolates nothing"):
        build_settings(judge=judge, runtime="process", process=process)
    both = [{**HELD.model_dump(), "folder": "/data"}] * 2
    with pytest.raises(ValidationError, match="twice"):
        build_settings(judge=judge, private_data=both)


def test_what_is_told_is_either_judged_or_not():
    fields = {"rules_sha256": "0" * 64, "judge": "1"}
    for odd in (
        {"status": "judged"},
        {"status": "not judged"},
        {"status": "judged", "metrics": {"a": 1.0}, "reason": "other rows"},
        {"status": "not judged", "reason": PRICE},
        {"status": "judged", "metrics": {f"m{n}": 1.0 for n in range(51)}},
        {"status": "judged", "metrics": {PRICE: 1.0}},
        {"status": "judged", "metrics": {"a": float("inf")}},
    ):
        with pytest.raises(ValidationError):
            ServerJudged.model_validate(fields | odd)


def test_what_the_owner_writes_is_in_a_file_of_its_own(tmp_path):
    settings = tmp_path / "agent.toml"
    settings.write_text(
        'env = "dev"\nserver = "box"\nstate_dir = "s"\nprivate_key_file = "k"\n'
        'control_public_key = "x"\nimages_allowed = ["*"]\n'
    )
    owners = tmp_path / "private.toml"
    entry = f'[[private_data]]\nname = "prices"\nversion = "1"\ndigest = "{DIGEST}"\n'
    owners.write_text(f'[judge]\npython = "judge/python"\n{entry}folder = "prices"\n')

    found = load_settings(settings, {})

    assert found.private_data[0].held == HELD
    assert found.private_data[0].folder == tmp_path / "prices"
    assert found.judge.python == tmp_path / "judge/python"
    for odd in ("slots = 9\n", "[judge\n"):
        owners.write_text(odd)
        with pytest.raises(ConfigurationError, match=r"private\.toml"):
            load_settings(settings, {})
