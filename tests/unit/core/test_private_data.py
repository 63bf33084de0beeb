"""Events whose data stay at their servers: what they may say, where they run, what is believed."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from fakes.data_sets import build_text
from fakes.tasks import build_spec, build_task
from touchstone.core import phases
from touchstone.core.data_sets import PinnedData, parse_data_set
from touchstone.core.eligibility import Needs, Resource, find_impossible, find_unfit
from touchstone.core.event_rules import settle_event
from touchstone.core.events import parse_event
from touchstone.core.judging_rules import build_rules
from touchstone.core.placement_inputs import build_needs, find_held_sets
from touchstone.core.records.servers import Server
from touchstone.core.replay import find_objection
from touchstone.core.schedule import Platform
from touchstone.core.tasks import (
    build_pod_start,
    build_private_data,
    build_start,
    find_held,
    list_inputs,
)
from touchstone.core.verdicts import find_server_scores
from touchstone.operators.collect import publish_figures
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    PhaseChanged,
    Progress,
    SlotClass,
)
from touchstone_agent.protocol.private import HeldData

NOW = datetime(2026, 12, 1, tzinfo=UTC)
DIGEST = "d" * 64
DATA = PinnedData(
    name="eurusd-hourly",
    version="2018-02",
    digest=DIGEST,
    sha256="",
    size=0,
    validation_from=date(2017, 10, 1),
    test_from=date(2017, 12, 1),
    bars_per_year=6240,
    is_private=True,
)
HELD = HeldData(name="eurusd-hourly", version="2018-02", digest=DIGEST)
SPEC = build_spec(data=DATA)
REF = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
EVENT = """
schema_version = 1
title = "Private"
share = "scores"
[data]
name = "eurusd-hourly"
[quota]
submissions = 5
"""
JUDGED = {
    "status": "judged",
    "metrics": {"net_sharpe": 0.5},
    "beta": 0.1,
    "active_sharpe": 0.25,
    "rules_sha256": build_rules(DATA).sha256,
    "judge": "0.1.0",
    "models": {"long": "a" * 64},
}


def settle(text: str, *, is_private: bool = True):
    data = parse_data_set(build_text())
    return settle_event(parse_event(text, name="e"), "e", data, is_private=is_private)


def test_an_event_on_private_data_has_their_own_rows():
    event = settle(EVENT)

    assert event.shares_scores_only
    assert event.rows.test_from == date(2017, 12, 1)
    assert settle(EVENT + "[rows]\ntest_from = 2017-12-01\n").rows == event.rows


@pytest.mark.parametrize(
    ("change", "is_private", "reason"),
    [
        (('share = "scores"\n', ""), True, "is private, so no prediction leaves"),
        (("", ""), False, "is not private: servers fetch it"),
        (('name = "eurusd-hourly"', 'name = "sp500"'), True, "is in every image"),
        (("[quota]\nsubmissions = 5\n", ""), True, "quota: with share"),
        (("[quota]", '[judging]\nbaseline = "flat"\n[quota]'), True, "judging.baseline"),
        (("[quota]", "[rows]\nclosed_from = 2018-01-01\n[quota]"), True, "closed_from out"),
        (("[quota]", "[rows]\ntest_to = 2018-01-01\n[quota]"), True, "leave test_to"),
        (("[quota]", "[rows]\ntest_from = 2018-01-01\n[quota]"), True, "judge its own rows alone"),
        (('"scores"', '"nothing"'), True, "share"),
    ],
)
def test_an_event_that_would_share_more_or_ask_for_more_is_refused(change, is_private, reason):
    before, after = change
    text = EVENT.replace(before, after, 1) if before else EVENT

    with pytest.raises(ConfigurationError, match=reason) as refused:
        settle(text, is_private=is_private)
    assert str(refused.value).startswith("event e: ")


def test_a_task_on_private_data_goes_only_where_they_are():
    needs = build_needs(build_task(SPEC))
    holder = Resource(name="rio", slots=1, held=frozenset({HELD}))
    others = [
        Resource(name="box", slots=1),
        Resource(name="old", held=frozenset({HELD.model_copy(update={"digest": "0" * 64})})),
        Resource(name="runpod", platform=Platform.RUNPOD),
    ]

    assert needs.data == HELD
    assert find_unfit(needs, holder) is None
    for other in others:
        assert "does not hold the private data set" in str(find_unfit(needs, other))
    assert "needs the private data set eurusd-hourly 2018-02" in str(find_impossible(needs, others))
    assert find_unfit(Needs(kind=SlotClass.TRAINING), others[0]) is None


def test_what_a_server_holds_is_its_own_word():
    held = {"name": "eurusd-hourly", "version": "2018-02", "digest": DIGEST}
    server = Server.load({"server": "rio", "inventory": {"private_data": [held, {"odd": 1}, 3]}})

    assert find_held_sets(server) == {HELD}
    assert find_held_sets(Server.load({"server": "rio"})) == frozenset()


def test_a_server_is_told_which_data_and_by_which_rules_and_no_pod_is():
    start = build_start(SPEC, REF, {"content": {"method": "GET", "url": "u", "expires_at": NOW}})

    assert list(list_inputs(SPEC)) == ["content"]
    assert [item.path for item in start.inputs] == ["content"]
    assert start.private_data == build_private_data(SPEC)
    assert start.private_data.held == HELD
    assert start.private_data.interval == 5
    assert start.private_data.rules.sha256 == build_rules(DATA).sha256
    with pytest.raises(PermanentError, match="no pod is rented"):
        build_pod_start(SPEC, REF, {})
    public = build_spec(data=DATA.model_copy(update={"is_private": False}))
    assert build_private_data(public) is None
    assert "is_private" not in public.data.model_dump()
    assert find_held(None) is None


def uploaded(**judged: object):
    task = build_task(
        SPEC,
        status="uploading",
        fence=1,
        attempt=1,
        server="rio",
        phase="exited",
        exited_at=str(NOW),
    )
    event = PhaseChanged(
        ref=REF, phase=AttemptPhase.UPLOADED, at=NOW, details={"judged": {**JUDGED, **judged}}
    )
    return phases.apply_phase(task, event, now=NOW)


def test_figures_of_a_servers_judge_are_marked_as_that():
    published = publish_figures(uploaded())

    assert published.judged.is_judged
    assert published.judged.there.server == "rio"
    assert published.judged.there.judge == "0.1.0"
    assert published.judged.series is None
    assert published.metrics == {"net_sharpe": 0.5}
    assert "rio" in published.charts_note
    task = uploaded()
    assert find_server_scores([(task, published)]).score == 0.25
    assert find_server_scores([(task, published), (task, None)]) is None
    assert find_objection(task) is not None


@pytest.mark.parametrize(
    ("judged", "reason"),
    [
        ({"rules_sha256": "0" * 64}, "rio judged by other rules"),
        ({"metrics": {"net_sharpe": "x"}}, "rio told no figures of its judge's"),
        (
            {"status": "not judged", "metrics": {}, "reason": "other rows"},
            "other rows (by the judge of rio)",
        ),
    ],
)
def test_what_a_server_says_otherwise_is_not_judged(judged, reason):
    published = publish_figures(uploaded(**judged))

    assert not published.judged.is_judged
    assert published.judged.reason == reason
    assert published.metrics == {}


def test_a_schedule_that_asks_for_other_rows_is_not_judged():
    task = uploaded()
    schedule = task.spec.schedule.model_copy(update={"config_overrides": ("backtest.cost_bps=0",)})
    other = task.change(spec=task.spec.model_copy(update={"schedule": schedule}))

    assert publish_figures(other).judged.reason.startswith("other rules (backtest.cost_bps")
    assert publish_figures(other).metrics == {}


def test_files_and_progress_that_a_server_tells_all_the_same_are_not_kept():
    running = build_task(SPEC, status="running", fence=1, attempt=1, server="rio", phase="running")
    news = Progress(ref=REF, at=NOW, phase="1.23456", percent=12, metrics={"price": 1.23456})
    exited = PhaseChanged(
        ref=REF,
        phase=AttemptPhase.EXITED,
        at=NOW,
        details={
            "exit_code": 0,
            "verdict": {"exit_code": 0, "outcome": "succeeded", "class": "ok"},
            "files": [{"path": "predictions.csv", "sha256": "a" * 64, "size": 1}],
        },
    )

    assert phases.apply_progress(running, news, now=NOW) is None
    after = phases.apply_phase(running, exited, now=NOW)
    assert after.status == "uploading"
    assert after.newest.files == ()
