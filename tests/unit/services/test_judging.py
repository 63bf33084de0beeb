"""Verdicts on record: reached once, never taken back, and whoever dies in between repeats."""

from __future__ import annotations

import base64
import struct
from datetime import timedelta

import pytest

from fakes.events import (
    ROWS,
    EventWorld,
    FakeJudge,
    build_beside,
    build_net,
    build_schedule,
    build_series,
)
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.confined.verdicts import NoVerdict
from touchstone.core.events import EventRefused, parse_event
from touchstone.core.verdicts import build_board, show_history
from touchstone.services.events import show_event
from touchstone.services.judging import Unreadable
from touchstone.settings import Settings
from touchstone.stores.events import UnknownEvent
from touchstone.stores.parts import Parts
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TransientError
from touchstone_agent.protocol.messages import AttemptRef

SETTINGS = Settings()
SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


@pytest.fixture
def judge():
    return FakeJudge()


@pytest.fixture
def world(judge):
    records = FakeRecordStore(SETTINGS)
    parts = Parts(FakeObjectStore(), "content")
    return EventWorld(records, parts, judge, SETTINGS)


def apply(world, text, name="default"):
    return world.keeper.apply(name, parse_event(SMALL + text, name=name), by="admin")


def put_ref(world):
    """Put a baseline on record, and set it."""
    world.train("ref", build_net(1))
    world.keeper.set_baseline("default", "ref", by="admin")


# --- events --------------------------------------------------------------------------------------


def test_the_same_file_again_changes_nothing(world):
    assert apply(world, "problem = 'a'").is_changed
    version = world.events.get_event("default").version

    assert not apply(world, "problem = 'a'").is_changed
    assert world.events.get_event("default").version == version
    assert apply(world, "problem = 'b'").is_changed


def test_a_file_keeps_entries_and_the_baseline_that_an_admin_has_set(world):
    put_ref(world)
    world.arrive("s-1", build_net(2))

    apply(world, "problem = 'later'")

    assert world.events.get_event("default").chosen_baseline == "ref"
    assert len(world.events.list_entries("default").records) == 2


def test_the_default_event_is_there_though_nobody_wrote_it_and_no_other_is(world):
    assert [each.name for each in world.events.list_events().records] == ["default"]
    with pytest.raises(UnknownEvent, match="there are default"):
        world.events.get_event("sp500")
    with pytest.raises(UnknownEvent):
        world.enter("s-1", event="sp500")


def test_one_event_that_makes_no_sense_leaves_the_others_alone(world):
    apply(world, "", name="good")
    table = SETTINGS.events_table
    world.records.put_stored(table, {"event": "#events", "entry": "odd", "definition": 5})

    found = world.events.list_events()

    assert [each.name for each in found.records] == ["default", "good"]
    assert list(found.unreadable) == ["odd"]


def test_a_baseline_is_flat_or_a_submission_that_has_succeeded(world):
    world.train("ref", build_net(1))
    for wrong in ("nobody", "../x", "a/b"):
        with pytest.raises(ConfigurationError, match="baseline"):
            world.keeper.set_baseline("default", wrong, by="admin")
    assert world.keeper.set_baseline("default", "flat", by="admin").chosen_baseline == "flat"


def test_a_baseline_that_the_file_names_is_changed_there_only(world):
    apply(world, "[judging]\nbaseline = 'flat'")
    world.train("ref", build_net(1))

    with pytest.raises(ConfigurationError, match="change it there"):
        world.keeper.set_baseline("default", "ref", by="admin")


def test_rows_that_verdicts_rest_on_do_not_change_under_them(world):
    apply(world, "[judging]\nbaseline = 'flat'")
    apply(world, "[judging]\nbaseline = 'flat'\narrivals = 7")
    world.arrive("s-1", build_net(2))

    with pytest.raises(
        ConfigurationError, match=r"event default: judging\.arrivals: verdicts rest"
    ):
        apply(world, "[judging]\nbaseline = 'flat'\narrivals = 1")
    assert apply(world, "problem = 'p'\n[judging]\nbaseline = 'flat'\narrivals = 7").is_changed


# --- the quota -----------------------------------------------------------------------------------


def test_a_repeated_step_takes_no_second_place_in_the_quota(world):
    apply(world, "[quota]\nsubmissions = 1\nhours = 24")
    world.enter("s-1")
    world.enter("s-1")

    with pytest.raises(EventRefused, match="the next one may come at 2026-12-02 12:00 UTC"):
        world.enter("s-2")
    assert world.enter("s-3", user="ben")


def test_the_same_run_with_another_schedule_is_another_try(world):
    apply(world, "[quota]\nsubmissions = 1\nhours = 24")
    world.enter("s-1", seed=1)

    with pytest.raises(EventRefused):
        world.enter("s-1", seed=2)


def test_failures_of_hosts_are_free_and_cancelled_ones_are_not(world):
    apply(world, "[quota]\nsubmissions = 1\nhours = 24")
    lost = {"status": "error", "outcome": "failed(infrastructure)", "published": None}
    world.arrive("s-1", None, fields=lost)
    world.arrive("s-2", None, fields={"status": "cancelled", "outcome": "cancelled"})

    with pytest.raises(EventRefused):
        world.enter("s-3")


def test_what_was_rejected_before_anything_ran_is_free(world):
    apply(world, "[quota]\nsubmissions = 1\nhours = 24")
    entry = world.train("s-1", build_net(1))
    world.records.change_submission(
        entry.submission_id, lambda found: found.change(status="rejected")
    )

    assert world.enter("s-2")


def test_a_deleted_submission_still_counts(world):
    apply(world, "[quota]\nsubmissions = 1\nhours = 24")
    world.enter("s-1")
    assert world.records.find_submission("s-1") is None

    with pytest.raises(EventRefused):
        world.enter("s-2")


# --- arrivals ------------------------------------------------------------------------------------


def test_without_a_baseline_nothing_is_judged_and_the_way_out_is_told(world, judge):
    entry = world.arrive("s-1", build_net(2))

    assert entry.verdict.outcome == "not judged"
    assert "touchstone event baseline default ID" in entry.verdict.sentence
    assert not judge.questions


def test_everybody_is_counted_and_the_baseline_is_not(world, judge):
    put_ref(world)
    world.judge_again(world.enter("ref"))
    world.arrive("s-1", build_net(2))
    entry = world.arrive("s-2", build_net(3), user="ben")

    assert entry.verdict.outcome == "not distinguishable"
    assert entry.verdict.baseline == "ref"
    assert [each["name"].partition(":")[0] for each in judge.questions[-1]["series"]] == [
        "s-1",
        "s-2",
    ]
    assert judge.questions[-1]["judged"] == [entry.label]
    assert (entry.score, entry.net_sharpe) == (0.5, 0.75)


def test_a_withdrawn_submission_stays_in_n(world, judge):
    put_ref(world)
    world.arrive("s-1", build_net(2))
    world.records.change_submission("s-1", lambda found: found.move("retracted"))

    world.arrive("s-2", build_net(3))

    assert len(judge.questions[-1]["series"]) == 2


def test_judging_again_asks_nobody_and_changes_nothing(world, judge):
    put_ref(world)
    entry = world.arrive("s-1", build_net(2))
    judge.outcomes["s-1"], judge.rules_version = "better", 2

    again = world.judge_again(entry)

    assert again.verdicts == entry.verdicts
    assert len(judge.questions) == 1


def test_whoever_dies_before_the_verdict_has_written_rows_that_count(world, judge, monkeypatch):
    put_ref(world)

    def die(_question):
        raise TransientError("killed")

    monkeypatch.setattr(world.judge, "_ask", die)
    with pytest.raises(TransientError):
        world.arrive("s-1", build_net(2))
    entry = world.events.list_entries("default", submission_id="s-1").records[0]
    assert entry.series is not None
    assert entry.verdict is None

    monkeypatch.setattr(world.judge, "_ask", judge)
    world.arrive("s-2", build_net(3))
    assert len(judge.questions[-1]["series"]) == 2
    assert world.judge_again(entry).verdict.outcome == "not distinguishable"


def test_a_judge_that_gives_no_answer_is_a_reason_and_a_later_answer_a_verdict(
    world, judge, monkeypatch
):
    put_ref(world)

    def fail(_question):
        raise NoVerdict("the judge ended with code 2: ValueError")

    monkeypatch.setattr(world.judge, "_ask", fail)
    entry = world.arrive("s-1", build_net(2))
    assert entry.verdict.sentence == "Not judged: the judge ended with code 2: ValueError."

    monkeypatch.setattr(world.judge, "_ask", judge)
    again = world.judge_again(entry)
    assert [each.outcome for each in again.verdicts] == ["not judged", "not distinguishable"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"net": build_net(2, rows=ROWS - 1)}, "other rows: 599 rows"),
        ({"rules": {"version": 1, "sha256": "2" * 64}}, "other rules"),
        ({"intervals": [1]}, "other intervals: 1; the baseline has 1,5"),
        ({"net": None}, "i1: other rows"),
        ({"net": None, "fields": {"published": None}}, "i1: trained before judging"),
        ({"net": None, "fields": {"status": "error"}}, "2 of 2 intervals have no result"),
    ],
)
def test_what_cannot_be_compared_is_not_judged_with_why(world, judge, change, told):
    put_ref(world)
    net = change.pop("net", build_net(2))

    entry = world.arrive("s-1", net, **change)

    assert entry.verdict.outcome == "not judged"
    assert told in entry.verdict.sentence
    assert not judge.questions


def test_an_entry_that_makes_no_sense_stops_the_count_and_nothing_else(world):
    put_ref(world)
    entry = world.train("s-1", build_net(2))
    world.records.put_stored(
        SETTINGS.events_table, {"event": "default", "entry": "entry:odd:1", "user": 5}
    )

    judged = world.judge_again(entry)

    assert "cannot be read" in judged.verdict.sentence
    with pytest.raises(Unreadable):
        world.judge.close("default", by="admin")


def test_rows_that_are_closed_tell_nothing_before_the_event_is(world, judge):
    apply(world, "[rows]\nclosed_from = 2015-01-01\n[judging]\nbaseline = 'flat'")
    entry = world.arrive("s-1", build_net(2))

    assert entry.verdict.sentence == "Not judged: after closing."
    assert entry.score is None
    assert not judge.questions

    world.judge.close("default", by="admin")
    (closed,) = world.events.list_entries("default").records
    assert closed.verdict.outcome == "not distinguishable"


# --- closing -------------------------------------------------------------------------------------


def test_closing_may_only_raise_and_keeps_what_was_said_before(world, judge):
    put_ref(world)
    judge.outcomes["s-1"] = "not distinguishable"
    first = world.arrive("s-1", build_net(2))
    judge.outcomes["s-1"], judge.rules_version = "better", 2
    world.now += timedelta(days=1)

    closed = world.judge.close("default", by="admin")

    assert closed.upgraded == (first.label,)
    (entry,) = world.events.list_entries("default", submission_id="s-1").records
    assert [each.outcome for each in entry.verdicts] == ["not distinguishable", "better"]
    assert [each.rules_version for each in entry.verdicts] == [1, 2]
    assert entry.verdicts[0] == first.verdict
    assert judge.questions[-1]["earlier"] == {first.label: "not distinguishable"}
    assert world.keeper.find_objection("default", "ann").startswith("the event 'default' has been")


def test_closing_twice_adds_nothing_unless_more_has_come(world):
    put_ref(world)
    world.arrive("s-1", build_net(2))
    late = world.train("s-2", build_net(3))

    assert world.judge.close("default", by="admin").waiting == (
        world.events.list_entries("default", submission_id="ref").records[0].label,
        late.label,
    )
    before = world.events.list_entries("default").records
    world.judge.close("default", by="admin")
    assert world.events.list_entries("default").records == before

    world.judge_again(late)
    world.judge.close("default", by="admin")
    counts = [len(each.verdicts) for each in world.events.list_entries("default").records]
    assert counts == [0, 3, 2]


def test_an_event_without_a_baseline_is_not_closed(world):
    world.arrive("s-1", build_net(2))

    with pytest.raises(PermanentError, match="has no baseline"):
        world.judge.close("default", by="admin")
    assert world.events.get_event("default").closed_at is None


def test_against_nothing_each_kind_of_rows_is_closed_by_itself(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.arrive("s-1", build_net(2))
    world.arrive("s-2", build_net(3))
    world.arrive("s-3", build_net(4, rows=ROWS - 10))
    judge.questions.clear()

    closed = world.judge.close("default", by="admin")

    assert len(closed.judged) == 3
    assert sorted(len(each["series"]) for each in judge.questions) == [1, 2]


# --- the board -----------------------------------------------------------------------------------


def test_a_board_has_ties_its_references_and_what_has_no_score_last(world):
    put_ref(world)
    for name, seed in (("s-1", 2), ("s-2", 3), ("s-3", 4)):
        world.now += timedelta(seconds=1)
        world.arrive(name, build_net(seed))
    world.arrive("s-4", None)
    scores = {"s-1": 0.1, "s-2": 0.1 + 1e-12, "s-3": 0.1}
    for entry in world.events.list_entries("default").records:
        if entry.submission_id in scores:
            score = scores[entry.submission_id]
            world.events.change_entry(entry, lambda e, score=score: e.change(score=score))

    board = build_board(
        world.events.get_event("default"), world.events.list_entries("default").records
    )

    ranked = [(row["name"], row["rank"]) for row in board["rows"]]
    assert ranked == [
        *(("baseline ref", 1), ("flat", 1), ("index", 1)),
        *(("s-2", 4), ("s-1", 5), ("s-3", 5)),
        ("s-4", None),
    ]
    assert board["rows"][-1]["reason"] == "i1: other rows"
    assert all(row["n"] is not None for row in board["rows"] if row["p"] is not None)


def test_references_are_on_a_board_before_anything_was_compared(world):
    board = build_board(world.events.get_event("default"), ())

    assert [row["name"] for row in board["rows"]] == ["flat", "index"]
    assert all(row["score"] is None and row["reason"] for row in board["rows"])


def test_only_the_rows_of_the_event_are_compared(world, judge):
    apply(world, "[rows]\ntest_to = 2014-12-31\n[judging]\nbaseline = 'flat'")

    entry = world.arrive("s-1", build_net(2))

    assert entry.series.rows == judge.questions[-1]["rows"] == 365
    apply(world, "[rows]\ntest_to = 2013-12-31\n[judging]\nbaseline = 'flat'", name="other")
    none = world.arrive("s-2", build_net(2), event="other")
    assert "none of its judged rows is one of the event's" in none.verdict.sentence


def test_a_run_that_is_cleared_and_trains_again_draws_no_second_time(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    first = world.arrive("s-1", build_net(1))
    asked = len(judge.questions)
    other = build_series(build_net(7))
    for task in world.records.list_tasks("s-1"):
        found = task.read()
        ref = AttemptRef(submission_id="s-1", task_id=found.task_id, attempt=2, fence=2)
        series = world.parts.put_series(ref, other)
        judged = found.newest.published.judged.change(series=series)
        stored = {**found.dump(), "published": {"judged": judged.dump()}}
        world.records.put_stored(SETTINGS.tasks_table, stored)

    again = world.judge_again(first)

    assert again.series == first.series
    assert again.verdicts == first.verdicts
    assert len(judge.questions) == asked


def test_only_common_rows_of_the_intervals_are_compared(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    long, short = build_series(build_net(1)), build_series(build_net(2, rows=ROWS - 20))
    entry = world.train("s-1", None, series=long)
    task = world.records.get_task("s-1", "i5")
    judged = task.newest.published.judged
    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=2, fence=2)
    judged = judged.change(
        rows=len(short.time),
        rows_digest=short.rows_digest,
        series=world.parts.put_series(ref, short),
    )
    stored = {**task.dump(), "published": {"judged": judged.dump()}}
    world.records.put_stored(SETTINGS.tasks_table, stored)

    assert world.judge_again(entry).series.rows == ROWS - 20
    assert judge.questions[-1]["rows"] == ROWS - 20


# --- what stands beside a verdict ----------------------------------------------------------------


def unpack(text):
    return struct.unpack(f"<{len(base64.b64decode(text)) // 8}d", base64.b64decode(text))


def build_predicted(net, seed):
    """Return judged rows with predictions and outcomes of their own."""
    score, target = build_net(seed + 50), build_net(99)
    return build_series(net).model_copy(update={"score": score, "target": target})


def test_the_judge_is_given_predictions_and_outcomes_that_it_stored_itself(world, judge):
    series = build_predicted(build_net(2), 2)
    world.train("ref", None, series=build_predicted(build_net(1), 1))
    world.keeper.set_baseline("default", "ref", by="admin")
    world.judge_again(world.train("s-1", None, series=series))

    (question,) = judge.questions
    # Two intervals beside each other, with the same rows here.
    assert unpack(question["series"][0]["prediction"])[::2] == series.score
    assert unpack(question["target"])[1::2] == series.target
    assert unpack(question["baseline_prediction"])[::2] == build_net(51)


def test_what_stands_beside_a_verdict_is_on_record_and_on_the_board(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    judge.beside = build_beside(similarity="the baseline holds nothing", nearest_name="s-0:12")

    entry = world.arrive("s-1", build_net(2))

    beside = entry.verdict.beside
    assert (beside.baseline, beside.nearest.value, beside.version) == ("flat", 0.75, 2)
    assert (beside.similarity.value, beside.similarity.note) == (None, "the baseline holds nothing")
    board = build_board(
        world.events.get_event("default"), [world.events.find_entry("default", entry.entry)]
    )
    row = next(row for row in board["rows"] if row["name"] == "s-1")
    assert row["beside"]["nearest_name"] == "s-0:12"
    assert row["beside"]["contribution"] == {"value": 0.125, "note": ""}
    assert {row["name"]: row["beside"] for row in board["rows"]}["flat"] is None
    assert show_history(entry)[0]["beside"]["nearest"]["value"] == 0.75


def test_closing_tells_shares_and_keeps_what_was_said_at_arrival(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    entry = world.arrive("s-1", build_net(2))
    judge.beside = build_beside(contributivity=1.0, equal_share=1.0)

    world.judge.close("default", by="admin")

    found = world.events.find_entry("default", entry.entry)
    arrival, closing = (verdict.beside for verdict in found.verdicts)
    assert arrival.contributivity.value is None
    assert (closing.contributivity.value, closing.equal_share) == (1, 1)


def test_a_verdict_of_before_is_read_and_says_why_it_has_none(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    judge.beside = None
    entry = world.arrive("s-1", build_net(2))

    assert entry.verdict.beside is None
    row = build_board(world.events.get_event("default"), [entry])["rows"][-1]
    for name in ("similarity", "nearest", "contribution", "contributivity"):
        assert row["beside"][name] == {"value": None, "note": "judged before it was computed"}


def test_what_was_compared_with_nothing_says_so(world):
    entry = world.arrive("s-1", None)

    row = build_board(world.events.get_event("default"), [entry])["rows"][-1]
    assert row["beside"]["similarity"]["note"] == "it was compared with nothing"


def test_rows_that_were_stored_before_predictions_are_compared_all_the_same(world, judge):
    """Entries of before have returns only; their verdicts need no more."""
    put_ref(world)
    first = world.arrive("s-1", build_net(2))
    old = {"net": judge.questions[-1]["series"][0]["net"], "market": judge.questions[-1]["market"]}
    part = world.parts.put("series/s-1/old/", old)
    world.events.change_entry(
        first, lambda found: found.change(series=found.series.change(part=part))
    )

    second = world.arrive("s-2", build_net(3))

    assert second.verdict.outcome == "not distinguishable"
    assert [each["prediction"] is None for each in judge.questions[-1]["series"]] == [True, False]


def test_rows_without_returns_are_a_reason(world):
    put_ref(world)
    first = world.arrive("s-1", build_net(2))
    part = world.parts.put("series/s-1/odd/", {"net": 5, "market": []})
    world.events.change_entry(
        first, lambda found: found.change(series=found.series.change(part=part))
    )

    assert "its stored rows have no returns" in world.arrive("s-2", build_net(3)).verdict.sentence


# --- seeds ---------------------------------------------------------------------------------------


def test_a_verdict_keeps_of_how_many_seeds_both_sides_are(world):
    world.train("ref", build_net(1), seed_count=2)
    world.keeper.set_baseline("default", "ref", by="admin")

    entry = world.arrive("s-1", build_net(2), seed_count=3)

    assert (entry.verdict.seed_count, entry.verdict.baseline_seed_count) == (3, 2)
    assert show_history(entry)[-1]["baseline_seed_count"] == 2
    (row,) = [
        each
        for each in build_board(world.events.get_event("default"), [entry])["rows"]
        if each["name"] == "s-1"
    ]
    assert (row["seed_count"], row["baseline_seed_count"]) == (3, 2)


def test_against_what_holds_nothing_only_the_own_seeds_are_told(world):
    world.keeper.set_baseline("default", "flat", by="admin")

    entry = world.arrive("s-1", build_net(2))

    assert (entry.verdict.seed_count, entry.verdict.baseline_seed_count) == (1, None)


def test_an_event_takes_the_number_of_seeds_that_it_fixes(world):
    apply(world, "[judging]\nbaseline = 'flat'\nseed_count = 3", name="three")

    with pytest.raises(EventRefused, match="seed_count: the event 'three' is judged with 3 seeds"):
        world.enter("s-1", event="three")
    assert world.arrive("s-2", build_net(2), event="three", seed_count=3).verdict.seed_count == 3
    with pytest.raises(ConfigurationError, match=r"judging\.seed_count: verdicts rest"):
        apply(world, "[judging]\nbaseline = 'flat'\nseed_count = 2", name="three")


def test_what_was_trained_before_the_event_fixed_another_number_is_not_judged(world):
    apply(world, "[judging]\nbaseline = 'flat'", name="three")
    entry = world.train("s-1", build_net(2), event="three")
    apply(world, "[judging]\nbaseline = 'flat'\nseed_count = 3", name="three")

    verdict = world.judge_again(entry).verdict

    assert verdict.outcome == "not judged"
    assert verdict.reason == "other seeds: it was trained with 1, and the event is judged with 3"


def test_a_baseline_with_another_number_of_seeds_is_none_where_the_event_fixes_it(world):
    world.train("ref", build_net(1), seed_count=2)
    apply(world, "[judging]\nbaseline = 'ref'\nseed_count = 3", name="three")

    verdict = world.arrive("s-1", build_net(2), event="three", seed_count=3).verdict

    assert verdict.outcome == "not judged"
    assert verdict.reason == (
        "other seeds: it was trained with 2, and the event is judged with 3: that is the baseline "
        "'ref'"
    )


def test_the_same_content_with_more_seeds_is_a_duplicate(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    one = world.arrive("s-1", build_net(2), content="same")
    more = world.arrive("s-2", build_net(3), content="same", seed_count=3)

    assert one.work == more.work


# --- waived columns ------------------------------------------------------------------------------


def test_every_verdict_row_and_line_of_history_tells_which_columns_are_waived(world):
    entry = world.arrive("s-1", build_net(2), waived=["target", "a b"])
    world.keeper.set_baseline("default", "flat", by="admin")
    entry = world.judge_again(entry)
    world.judge.close("default", by="admin")
    (entry,) = world.events.list_entries("default").records

    assert entry.waived_columns == ("target", "a b")
    assert [each["waived_columns"] for each in show_history(entry)] == [["target", "a b"]] * 3
    told = "2 columns are waived from the checks for look-ahead."
    assert all(each["sentence"].endswith(told) for each in show_history(entry))
    rows = build_board(world.events.get_event("default"), [entry])["rows"]
    assert {row["name"]: row["waived_columns"] for row in rows}["s-1"] == ["target", "a b"]
    assert all(not row["waived_columns"] for row in rows if row["name"] != "s-1")


def test_of_nobody_elses_verdict_a_word_is_said_of_waivers(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.arrive("s-1", build_net(2), waived=["target"])

    verdict = world.arrive("s-2", build_net(3)).verdict

    assert (verdict.waived_columns, verdict.sentence) == ((), "Not distinguishable: `flat`.")


def test_what_was_trained_with_waivers_is_told_whatever_its_entry_says(world):
    """An entry may have come of a run that was refused, and of another one with the same id."""
    world.keeper.set_baseline("default", "flat", by="admin")
    entry = world.train("s-1", build_net(2), waived=["target"])
    forgotten = world.events.change_entry(entry, lambda found: found.change(waived_columns=()))

    verdict = world.judge_again(forgotten).verdict

    assert verdict.waived_columns == ("target",)
    assert world.events.find_entry("default", entry.entry).waived_columns == ("target",)


def test_an_event_without_waivers_takes_none_and_costs_no_place(world):
    apply(world, "[judging]\nbaseline = 'flat'\n[quota]\nsubmissions = 1", name="clean")

    with pytest.raises(EventRefused, match="waived_columns: the event 'clean' takes no submission"):
        world.enter("s-1", event="clean", waived=["target"])
    with pytest.raises(EventRefused, match="'target' is; submit it without them"):
        world.keeper.check_entry(build_schedule(event="clean"), user="ann", waived=["target"])
    assert world.enter("s-2", event="clean")


def test_an_event_that_takes_waivers_no_more_judges_none(world):
    apply(world, "waivers = true\n[judging]\nbaseline = 'flat'", name="open")
    entry = world.train("s-1", build_net(2), event="open", waived=["target"])
    apply(world, "waivers = false\n[judging]\nbaseline = 'flat'", name="open")

    verdict = world.judge_again(entry).verdict

    assert (verdict.outcome, verdict.waived_columns) == ("not judged", ("target",))
    assert verdict.reason.startswith("waived_columns: the event 'open' takes no submission")


def test_what_waives_columns_is_no_baseline_where_they_are_not_taken(world):
    world.train("ref", build_net(1), waived=["target"])
    apply(world, "[judging]\nbaseline = 'ref'", name="clean")

    verdict = world.arrive("s-1", build_net(2), event="clean").verdict

    assert verdict.outcome == "not judged"
    assert verdict.reason.endswith("submit it without them: that is the baseline 'ref'")


def test_an_event_shows_whether_it_takes_waivers(world):
    apply(world, "", name="clean")
    shown = {name: show_event(world.events.get_event(name)) for name in ("clean", "default")}

    assert (shown["clean"]["waivers"], shown["default"]["waivers"]) == (False, True)


# --- folds ---------------------------------------------------------------------------------------

FOLDS = ("2005-01-01", "2010-01-01", "2014-01-01")


def test_each_row_of_the_folds_is_compared_once_and_seams_are_told(world, judge):
    world.train("ref", build_net(1), folds=FOLDS)
    world.keeper.set_baseline("default", "ref", by="admin")

    entry = world.arrive("s-1", build_net(2), folds=FOLDS)

    assert entry.verdict.outcome == "not distinguishable"
    assert entry.series.rows == judge.questions[-1]["rows"] == ROWS
    assert entry.series.folds == tuple(judge.questions[-1]["folds"]) == (200, 200, 200)
    # Two intervals beside each other, with the same rows here.
    assert unpack(judge.questions[-1]["series"][0]["net"])[::2] == build_net(2)
    row = next(
        each
        for each in build_board(world.events.get_event("default"), [entry])["rows"]
        if each["name"] == "s-1"
    )
    assert row["fold_count"] == 3


def test_without_folds_the_judge_is_asked_as_before_there_were_any(world, judge):
    put_ref(world)

    entry = world.arrive("s-1", build_net(2))

    assert "folds" not in judge.questions[-1]
    assert entry.series.folds == ()


@pytest.mark.parametrize(
    ("folds", "told"),
    [
        (
            (),
            "other rows: 600 rows, 2014-01-01 to 2015-08-23; the baseline has 600 rows in 3 folds",
        ),
        (FOLDS[:2], "other rows: 600 rows in 2 folds, "),
    ],
)
def test_what_was_trained_in_other_folds_is_on_other_rows(world, judge, folds, told):
    world.train("ref", build_net(1), folds=FOLDS)
    world.keeper.set_baseline("default", "ref", by="admin")

    verdict = world.arrive("s-1", build_net(2), folds=folds).verdict

    assert (verdict.outcome, verdict.reason[: len(told)]) == ("not judged", told)
    assert not judge.questions


def test_as_many_folds_with_other_borders_are_other_rows_too(world, judge):
    world.train("ref", build_net(1), folds=FOLDS)
    world.keeper.set_baseline("default", "ref", by="admin")
    entry = world.train("s-1", build_net(2), folds=FOLDS)
    # As if the second one of its folds had begun a row later.
    whole = build_series(build_net(2))
    for number, (begin, end) in enumerate([(0, 201), (201, 400), (400, ROWS)]):
        cut = {name: value and value[begin:end] for name, value in whole.model_dump().items()}
        series = type(whole).model_validate(cut)
        for interval in (1, 5):
            task = world.records.get_task("s-1", f"i{interval}-f{number}")
            ref = AttemptRef(submission_id="s-1", task_id=task.task_id, attempt=2, fence=2)
            judged = task.newest.published.judged.change(
                rows=len(series.time),
                rows_digest=series.rows_digest,
                series=world.parts.put_series(ref, series),
            )
            stored = {**task.dump(), "published": {"judged": judged.dump()}}
            world.records.put_stored(SETTINGS.tasks_table, stored)

    assert world.judge_again(entry).verdict.reason.startswith("other rows: 600 rows in 3 folds")


def test_a_row_that_is_in_two_folds_is_no_row(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    entry = world.train("s-1", build_net(2), folds=FOLDS)
    first = world.records.get_task("s-1", "i1-f0").newest.published.judged
    second = world.records.get_task("s-1", "i1-f1")
    stored = {**second.dump(), "published": {"judged": first.dump()}}
    world.records.put_stored(SETTINGS.tasks_table, stored)

    told = world.judge_again(entry).verdict.reason

    assert told == "its folds share rows, or are out of order; train it again"


def test_a_fold_that_failed_or_is_missing_leaves_nothing_to_compare(world, judge):
    world.keeper.set_baseline("default", "flat", by="admin")
    entry = world.train("s-1", build_net(2), folds=FOLDS)
    task = world.records.get_task("s-1", "i5-f1")
    broken = {**task.dump(), "status": "error", "outcome": "failed(user)"}
    world.records.put_stored(SETTINGS.tasks_table, broken)

    reason = world.judge_again(entry).verdict.reason
    assert reason == "1 of 2 intervals have no result (i5-f1)"

    submission = world.records.get_submission("s-1")
    left = [each.read() for each in world.records.list_tasks("s-1") if each.task_id != "i5-f1"]
    told = world.judge.judge_arrival(entry, submission, left).verdict.reason
    assert told == "i5-f1: it is not on record"
    assert not judge.questions


def test_an_event_takes_the_folds_that_it_fixes(world, judge):
    rows = "[rows]\nfolds = [2005-01-01, 2010-01-01, 2014-01-01]\n[judging]\nbaseline = 'flat'"
    apply(world, rows, name="folded")

    with pytest.raises(EventRefused, match="folds: the event 'folded' is judged on the folds 2005"):
        world.enter("s-1", event="folded")
    with pytest.raises(EventRefused, match="folds: the event 'folded' is judged on the folds 2005"):
        world.enter("s-1", event="folded", folds=FOLDS[:2])
    # Rows of tests begin in 2014, which a real fold's need not.
    entry = world.arrive("s-2", build_net(2), event="folded", folds=FOLDS)
    assert judge.questions[-1]["folds"] == [200, 200, 200]
    assert entry.series.folds == (200, 200, 200)
    with pytest.raises(ConfigurationError, match=r"event folded: rows: verdicts rest"):
        apply(world, rows.replace("2010", "2011"), name="folded")


def test_what_was_trained_before_the_event_fixed_folds_is_on_other_rows(world):
    apply(world, "[judging]\nbaseline = 'flat'", name="folded")
    entry = world.train("s-1", build_net(2), event="folded")
    apply(world, "[rows]\nfolds = [2005-01-01, 2010-01-01]", name="folded")

    assert world.judge_again(entry).verdict.reason == (
        "other rows: it was trained on the folds none, and the event is judged on "
        "2005-01-01,2010-01-01"
    )


def test_a_baseline_in_other_folds_is_none_where_the_event_fixes_them(world):
    world.train("ref", build_net(1))
    rows = "[rows]\nfolds = [2005-01-01, 2010-01-01, 2014-01-01]\n[judging]\nbaseline = 'ref'"
    apply(world, rows, name="folded")

    verdict = world.arrive("s-1", build_net(2), event="folded", folds=FOLDS).verdict

    assert verdict.outcome == "not judged"
    assert verdict.reason.startswith("other rows: it was trained on the folds none")
    assert verdict.reason.endswith(": that is the baseline 'ref'")


def test_a_whole_fold_that_an_event_leaves_out_is_no_fold(world, judge):
    apply(world, "[rows]\ntest_to = 2014-12-31\n[judging]\nbaseline = 'flat'", name="short")

    world.arrive("s-1", build_net(2), event="short", folds=FOLDS)

    assert judge.questions[-1]["folds"] == [200, 165]


def test_the_same_content_in_the_same_folds_is_a_duplicate(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    one = world.arrive("s-1", build_net(2), content="same", folds=FOLDS)
    again = world.arrive("s-2", build_net(3), content="same", folds=FOLDS, seed=7)

    assert one.work == again.work
