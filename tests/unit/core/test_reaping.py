"""Which pods are nobody's any more: by example, and by promises that hold in any world."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.pods import Cloud, Pod, PodStatus
from touchstone.core.reaping import (
    Counts,
    Decision,
    Doubt,
    ReapingThresholds,
    Reason,
    RecordedPod,
    Sightings,
    decide,
)
from touchstone_agent.protocol.names import build_container_name, build_prefix

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PREFIX = build_prefix("dev")
NAME = build_container_name("dev", "s-1", "i5", 1, 1)
OLD, YOUNG = 3600, 10


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def build_pod(pod_id="x", name=NAME, *, age: float | None = OLD, status=PodStatus.RUNNING) -> Pod:
    return Pod(
        id=pod_id,
        name=name,
        status=status,
        image="trainer:1",
        gpu="NVIDIA L4",
        gpu_count=1,
        cloud=Cloud.SECURE,
        data_center=None,
        price_per_hour=Decimal("0.39"),
        created_at=None if age is None else ago(age),
    )


def build_recorded_pod(
    pod_id: str | None = "x", name=NAME, *, is_live=True, age=OLD, **changes
) -> RecordedPod:
    facts = {
        "name": name,
        "submission_id": "s-1",
        "task_id": "i5",
        "fence": 1,
        "pod_id": pod_id,
        "is_live": is_live,
        "ordered_at": ago(age),
    }
    return RecordedPod(**{**facts, **changes})


def tick(pods=(), recorded_pods=(), before: Decision | None = None, *, at: float = 0, **options):
    """Decide at so many seconds after NOW."""
    sightings = Sightings() if before is None else before.sightings
    now = NOW + timedelta(seconds=at)
    return decide(list(pods), list(recorded_pods), sightings, prefix=PREFIX, now=now, **options)


def reap(pods=(), recorded_pods=(), ticks: int = 2) -> list[Decision]:
    """Decide over and over about the same, every ten seconds."""
    decisions: list[Decision] = []
    for number in range(ticks):
        decisions.append(
            tick(pods, recorded_pods, decisions[-1] if decisions else None, at=10 * number)
        )
    return decisions


def reasons(decision: Decision) -> dict[str, Reason]:
    return {each.pod.id: each.reason for each in decision.terminations}


# --- by example -------------------------------------------------------------------------------


def test_the_pod_of_an_attempt_that_goes_on_is_left_alone() -> None:
    for decision in reap([build_pod()], [build_recorded_pod()], ticks=5):
        assert decision.terminations == decision.gone == decision.missing == ()
        assert decision.counts == Counts(seen=1, ours=1)


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        (build_recorded_pod(is_live=False), Reason.ENDED),
        (build_recorded_pod(None, is_live=False), Reason.ENDED),
        (build_recorded_pod(ending_at=NOW), Reason.ENDING),
        (build_recorded_pod(is_live=False, ending_at=NOW), Reason.ENDED),
        (build_recorded_pod(is_live=False, ending_at=ago(9), gone_at=ago(1)), Reason.RETURNED),
    ],
)
@pytest.mark.parametrize("age", [YOUNG, OLD])
def test_a_pod_that_is_not_needed_any_more_is_terminated_at_once(recorded, reason, age) -> None:
    decision = tick([build_pod(age=age)], [recorded])
    assert reasons(decision) == {"x": reason}
    assert decision.terminations[0].recorded == recorded


def test_a_pod_that_was_given_back_after_the_list_was_read_did_not_come_back() -> None:
    recorded = build_recorded_pod(is_live=False, gone_at=NOW + timedelta(seconds=1))
    first, second = reap([build_pod()], [recorded])
    assert reasons(first) == {}
    assert reasons(second) == {"x": Reason.RETURNED}, "a later list has it still"


def test_a_pod_is_terminated_again_until_it_is_gone() -> None:
    for decision in reap([build_pod()], [build_recorded_pod(is_live=False)], ticks=4):
        assert reasons(decision) == {"x": Reason.ENDED}
    first, *later = reap([build_pod()], ticks=4)
    assert reasons(first) == {}
    assert all(reasons(decision) == {"x": Reason.UNKNOWN} for decision in later)


def test_a_pod_of_no_attempt_is_terminated_when_it_is_seen_again() -> None:
    first, second = reap([build_pod()])
    assert reasons(first) == {}
    assert reasons(second) == {"x": Reason.UNKNOWN}
    assert second.terminations[0].recorded is None
    assert second.counts == Counts(seen=1, ours=1, unknown=1)


def test_a_young_pod_of_no_attempt_may_still_become_somebodys() -> None:
    pod = build_pod(age=YOUNG)
    *decisions, last = reap([pod], ticks=12)
    assert not any(each.terminations for each in decisions)
    assert reasons(last) == {"x": Reason.UNKNOWN}, "ten seconds old at first, 120 at last"


def test_a_pod_that_became_somebodys_starts_anew_if_it_is_nobodys_again() -> None:
    pod = build_pod()
    first = tick([pod])
    second = tick([pod], [build_recorded_pod()], first, at=10)
    third = tick([pod], [], second, at=20)
    assert third.terminations == ()


def test_the_same_list_twice_proves_nothing_more() -> None:
    first = tick([build_pod()])
    again = tick([build_pod()], [], first)
    assert again.terminations == ()
    assert reasons(tick([build_pod()], [], again, at=1)) == {"x": Reason.UNKNOWN}


@pytest.mark.parametrize("age", [None, -(10**6)])
def test_a_pod_whose_age_is_not_known_is_as_old_as_we_know_it(age) -> None:
    """RunPod may not say when it was created, or its clock may be ahead of ours."""
    *decisions, last = reap([build_pod(age=age)], ticks=13)
    assert not any(each.terminations for each in decisions)
    assert reasons(last) == {"x": Reason.UNKNOWN}


@pytest.mark.parametrize(
    "name",
    [
        "somebody-elses",
        "touchstone-prod-s-1-i5-1-1",
        "touchstone-dev2-s-1-i5-1-1",
        "touchstone-devs-1-i5-1-1",
        "touchstone-dev",
        "Touchstone-dev-s-1-i5-1-1",
        " touchstone-dev-s-1-i5-1-1",
        "",
    ],
)
def test_another_name_is_never_touched(name) -> None:
    for decision in reap([build_pod(name=name)], [build_recorded_pod("y", is_live=False)], ticks=4):
        assert decision.terminations == ()
        assert decision.counts == Counts(seen=1, foreign=1)


@pytest.mark.parametrize("prefix", ["", "-", "touchstone-dev", "touchstone"])
def test_what_is_no_prefix_of_an_environment_is_refused(prefix) -> None:
    with pytest.raises(ValueError, match="not the prefix"):
        decide([build_pod()], [], Sightings(), prefix=prefix, now=NOW)


def test_a_second_pod_goes_as_soon_as_the_first_is_on_record() -> None:
    first, second = build_pod("x", age=YOUNG), build_pod("y", age=YOUNG)
    assert reasons(tick([second, first], [build_recorded_pod("x")])) == {"y": Reason.SECOND}
    assert reasons(tick([second, first], [build_recorded_pod("y")])) == {"x": Reason.SECOND}


def test_while_none_is_on_record_the_oldest_stays_and_the_others_wait_their_grace() -> None:
    pods = [build_pod("b", age=500), build_pod("a", age=400), build_pod("c", age=None)]
    first, *_, last = reap(pods, [build_recorded_pod(None)], ticks=14)
    assert first.terminations == ()
    assert reasons(last) == {"a": Reason.SECOND, "c": Reason.SECOND}


def test_a_second_pod_without_the_first_may_be_about_to_be_adopted() -> None:
    second = build_pod("y")
    first, *later = reap([second], [build_recorded_pod("x")])
    assert first.terminations == ()
    assert reasons(later[0]) == {"y": Reason.SECOND}
    assert reap([second], [build_recorded_pod("y")])[-1].terminations == ()


def test_a_renamed_pod_is_still_its_attempts() -> None:
    renamed = build_pod("x", name=f"{PREFIX}my-name")
    assert reap([renamed], [build_recorded_pod("x")], ticks=4)[-1].terminations == ()
    assert reasons(tick([renamed], [build_recorded_pod("x", is_live=False)])) == {"x": Reason.ENDED}


def test_a_pod_is_gone_when_two_lists_in_a_row_lack_it() -> None:
    recorded, other = build_recorded_pod(is_live=False), build_pod("o", name="other")
    first, second = reap([other], [recorded])
    assert (first.gone, second.gone) == ((), (recorded,))
    assert tick([other], [replace(recorded, gone_at=NOW)], second, at=20).gone == ()


def test_a_list_that_has_it_breaks_the_row() -> None:
    recorded, other = build_recorded_pod(is_live=False), build_pod("o", name="other")
    first = tick([other], [recorded])
    second = tick([build_pod()], [recorded], first, at=10)
    third = tick([other], [recorded], second, at=20)
    assert third.gone == ()
    assert tick([other], [recorded], third, at=30).gone == (recorded,)


@pytest.mark.parametrize(
    "pod", [build_pod("y"), build_pod("x", name="renamed"), build_pod(status=PodStatus.EXITED)]
)
def test_what_may_still_be_billed_is_not_gone(pod) -> None:
    assert reap([pod], [build_recorded_pod(is_live=False)], ticks=4)[-1].gone == ()


def test_what_runpod_calls_terminated_is_not_there() -> None:
    recorded = build_recorded_pod(is_live=False)
    _, second = reap([build_pod(status=PodStatus.TERMINATED)], [recorded])
    assert second.gone == (recorded,)
    assert second.counts == Counts()
    assert second.terminations == ()


@pytest.mark.parametrize("pod_id", ["x", None])
def test_a_fresh_order_may_not_be_listed_yet(pod_id) -> None:
    """Cancelled at once, it would be taken for gone, and come up in the next list."""
    recorded = build_recorded_pod(pod_id, is_live=False, age=YOUNG)
    *decisions, last = reap([], [recorded], ticks=13)
    assert not any(each.gone for each in decisions[:-1])
    assert last.gone == (recorded,)


def test_a_needed_pod_that_is_missing_is_told_and_left_to_its_driver() -> None:
    recorded, other = build_recorded_pod(), build_pod("o", name="other")
    for decision in reap([other], [recorded], ticks=4):
        assert decision.missing == (recorded,)
        assert decision.gone == decision.terminations == ()


def test_an_order_that_is_still_awaited_is_not_missing() -> None:
    for decision in reap([build_pod("o", name="other")], [build_recorded_pod(None)], ticks=4):
        assert decision.missing == decision.gone == ()


def test_an_empty_list_where_pods_should_be_is_no_list() -> None:
    live, ended = build_recorded_pod(), build_recorded_pod("y", name=f"{PREFIX}y", is_live=False)
    before = tick([build_pod()], [live, ended])
    for decision in (tick([], [live, ended], before, at=10 * n) for n in (1, 2, 3)):
        assert decision.has_failed
        assert decision.missing == (live,)
        assert decision.gone == decision.terminations == ()
        assert decision.sightings == before.sightings
    after = tick([build_pod()], [live, ended], before, at=40)
    assert after.gone == (ended,), "the lists before and after it are in a row"


def test_an_empty_account_is_believed_when_nothing_should_be_there() -> None:
    ended = build_recorded_pod(is_live=False)
    first, second = reap([], [ended, build_recorded_pod(None, name=f"{PREFIX}z")])
    assert not first.has_failed
    assert second.gone == (ended,)


def test_a_list_of_other_peoples_pods_is_a_list() -> None:
    decision = tick([build_pod("o", name="other")], [build_recorded_pod()])
    assert not decision.has_failed


def test_of_two_records_of_a_name_the_one_that_is_needed_holds() -> None:
    recorded_pods = [build_recorded_pod(), build_recorded_pod(is_live=False)]
    for order in (recorded_pods, recorded_pods[::-1]):
        assert tick([build_pod()], order).terminations == ()


def test_graces_are_settings() -> None:
    thresholds = ReapingThresholds(young_seconds=0, strikes=1)
    assert reasons(tick([build_pod(age=0)], thresholds=thresholds)) == {"x": Reason.UNKNOWN}
    recorded = build_recorded_pod(is_live=False, age=0)
    assert tick([], [recorded], thresholds=thresholds).gone == (recorded,)


def test_sightings_are_the_same_after_they_were_json() -> None:
    sightings = Sightings(
        at=NOW, doubts={"x": Doubt(since=ago(9.5), strikes=3)}, absences={NAME: 1}
    )
    assert Sightings.load(json.loads(json.dumps(sightings.dump()))) == sightings
    assert Sightings.load(Sightings().dump()) == Sightings.load({}) == Sightings()


# --- in any world -----------------------------------------------------------------------------

OURS = [build_container_name("dev", f"s-{i}", "i5", 1, 1) for i in range(3)]
FOREIGN = ["touchstone-dev2-s-0-i5-1-1", "touchstone-prod-s-0-i5-1-1", "jupyter", "touchstone-dev"]
IDS = [f"id{number}" for number in range(8)]
AGES = st.one_of(st.none(), st.integers(-1000, 10_000))
TIMES = st.one_of(st.none(), st.integers(1, 1000).map(ago))

RECORDED = st.lists(
    st.builds(
        build_recorded_pod,
        st.sampled_from([None, *IDS]),
        st.sampled_from(OURS),
        is_live=st.booleans(),
        age=st.integers(0, 10_000),
        ending_at=TIMES,
        gone_at=TIMES,
    ),
    max_size=4,
)
PODS = st.lists(
    st.builds(
        build_pod,
        st.sampled_from(IDS),
        st.sampled_from([*OURS, *FOREIGN, f"{PREFIX}unknown"]),
        age=AGES,
        status=st.sampled_from(PodStatus),
    ),
    max_size=8,
    unique_by=lambda pod: pod.id,
)
WORLDS = st.lists(st.tuples(PODS, RECORDED, st.integers(-5, 200)), min_size=1, max_size=6)


def play(world) -> list[tuple[list[Pod], list[RecordedPod], Decision, datetime]]:
    """Decide about one list after the other, with what is remembered kept as JSON."""
    played, sightings, now = [], Sightings(), NOW
    for pods, recorded_pods, seconds in world:
        now += timedelta(seconds=seconds)
        decision = decide(pods, recorded_pods, sightings, prefix=PREFIX, now=now)
        sightings = Sightings.load(json.loads(json.dumps(decision.sightings.dump())))
        played.append((pods, recorded_pods, decision, now))
    return played


def is_needed(recorded: RecordedPod) -> bool:
    return recorded.is_live and recorded.ending_at is None and recorded.gone_at is None


@given(WORLDS)
def test_a_foreign_pod_is_never_touched(world) -> None:
    for _, _, decision, _ in play(world):
        assert all(each.pod.name.startswith("touchstone-dev-") for each in decision.terminations)


@given(WORLDS)
def test_the_pod_of_a_needed_attempt_is_never_touched(world) -> None:
    for pods, recorded_pods, decision, _ in play(world):
        ended = {each.pod.id for each in decision.terminations}
        for recorded in filter(is_needed, recorded_pods):
            assert recorded.pod_id not in ended
            named = [
                pod
                for pod in pods
                if pod.name == recorded.name and pod.status is not PodStatus.TERMINATED
            ]
            # Whatever its driver adopts first is there.
            if recorded.pod_id is None and named:
                dated = [pod for pod in named if pod.created_at]
                oldest = min(dated, key=lambda pod: (pod.created_at, pod.id), default=None)
                assert oldest is None or oldest.id not in ended
                assert {pod.id for pod in named} - ended


@given(PODS, RECORDED)
def test_whatever_nobody_needs_is_terminated_by_the_second_list(pods, recorded_pods) -> None:
    pods = [replace(pod, created_at=ago(OLD)) for pod in pods]
    pods = [pod for pod in pods if pod.status is not PodStatus.TERMINATED]
    needed = [recorded for recorded in recorded_pods if is_needed(recorded)]
    kept = {recorded.pod_id for recorded in needed if recorded.pod_id}
    for recorded in needed:
        kept |= {
            min((p.id for p in pods if p.name == recorded.name and not recorded.pod_id), default="")
        }
    orphans = {pod.id for pod in pods if pod.name.startswith(PREFIX) and pod.id not in kept}
    first, second = reap(pods, recorded_pods)
    if pods:
        assert set(reasons(second)) == orphans
        assert set(reasons(first)) <= orphans
        dead = {recorded.name for recorded in recorded_pods} - {
            recorded.name for recorded in needed
        }
        assert {pod.id for pod in pods if pod.name in dead} & orphans <= set(reasons(first))


@given(WORLDS)
def test_what_is_gone_is_in_neither_of_two_lists(world) -> None:
    played = play(world)
    for number, (_, _, decision, now) in enumerate(played):
        lists = [pods for pods, _, past, _ in played[: number + 1] if not past.has_failed]
        for recorded in decision.gone:
            assert not is_needed(recorded)
            assert recorded.gone_at is None
            assert (now - recorded.ordered_at).total_seconds() >= ReapingThresholds().young_seconds
            assert len(lists) >= 2
            for pods in lists[-2:]:
                for pod in pods:
                    is_same = pod.name == recorded.name or pod.id == recorded.pod_id
                    assert not is_same or pod.status is PodStatus.TERMINATED


@given(WORLDS)
def test_equal_inputs_bring_equal_decisions_in_whatever_order(world) -> None:
    shuffled = [
        (pods[::-1], recorded_pods[::-1], seconds) for pods, recorded_pods, seconds in world
    ]
    for (_, _, one, _), (_, _, other, _) in zip(play(world), play(shuffled), strict=True):
        assert one.terminations == other.terminations or {
            each.pod.id for each in one.terminations
        } == {each.pod.id for each in other.terminations}
        assert one.sightings == other.sightings
        assert one.counts == other.counts
        assert {recorded.name for recorded in one.gone} == {
            recorded.name for recorded in other.gone
        }


def test_a_pod_whose_record_makes_no_sense_is_nobodys_to_end() -> None:
    """Without a record it would be taken for one that no attempt knows of."""
    pods, sightings = [build_pod()], Sightings()
    for tick in range(10):
        now = NOW + timedelta(minutes=tick)
        spared = decide(pods, [], sightings, prefix=PREFIX, now=now, spared=[pods[0].name])
        sightings = spared.sightings
        assert spared.terminations == ()

    # As soon as its record is read again it is judged like all others.
    later = NOW + timedelta(hours=1)
    for tick in range(2):
        judged = decide(pods, [], sightings, prefix=PREFIX, now=later + timedelta(minutes=tick))
        sightings = judged.sightings
    assert [each.pod.id for each in judged.terminations] == [pods[0].id]
