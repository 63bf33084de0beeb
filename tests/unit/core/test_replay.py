"""A training that is run again, and what its outcome says."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from fakes.tasks import with_fields
from touchstone.core import attempts
from touchstone.core.conf import build_conf, parse_conf
from touchstone.core.records.tasks import StoredFile
from touchstone.core.replay import (
    MAX_PREDICTIONS_BYTES,
    Side,
    build_replay_schedule,
    build_replay_spec,
    build_replayed,
    find_objection,
    judge_replay,
    read_predictions,
)
from touchstone.core.results import ResultRefused, TrainerResult, judge_submission
from touchstone.core.tasks import Checkout, TaskSpec, build_argv, build_environment, build_start
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import AttemptRef, Grant, Limits

NOW = datetime(2026, 11, 29, tzinfo=UTC)
CPU = "cpu avx2 jax 0.10.2"
L4 = "NVIDIA L4 driver 550.54.14 jax 0.10.2 cuda 12.8"
SCORES = [0.1, 0.4, 0.2, 0.3]
FILES = [
    {"path": "result.json", "sha256": "1" * 64, "size": 10},
    {"path": "predictions.csv", "sha256": "2" * 64, "size": 20},
]


def write(scores, times=None):
    days = times or [f"2014-01-{number:02d}" for number in range(1, len(scores) + 1)]
    rows = zip(days, scores, strict=True)
    lines = "".join(f"{time},0.5,{score!r},{-score!r}\n" for time, score in rows)
    return f"time,target,score_long,score_short\n{lines}".encode()


def make_side(scores=SCORES, *, determinism=CPU, sharpe=0.5, predictions=None, image="a", **result):
    predictions = write(scores) if predictions is None else predictions
    known = {
        "contract": 1,
        "metrics": {"net_sharpe": sharpe},
        "device": {"determinism": determinism} if determinism else {},
        "versions": {"jax": "0.10.2"},
        "data": {"sha256": "d"},
        "seed": 7,
    }
    return Side(
        result=TrainerResult(**(known | result)),
        predictions=predictions,
        predictions_sha256=hashlib.sha256(predictions).hexdigest(),
        image_digest=image,
    )


# --- the comparison -----------------------------------------------------------------------------

NEAR = [0.1, 0.4, 0.2, 0.30000001]
FAR = [0.4, 0.1, 0.2, 0.3]
DAYS = [f"2014-01-{number:02d}" for number in range(1, 5)]


@pytest.mark.parametrize(
    ("now", "verdict", "reason"),
    [
        (make_side(), "identical", f"bit for bit; one determinism class ({CPU})"),
        (
            make_side(determinism=L4),
            "identical",
            f"another determinism class: it was {CPU}, and is {L4}",
        ),
        (make_side(NEAR), "different", "where bits must be the same: rank correlation 1.000000"),
        (make_side(NEAR, image="b"), "different", "in another image"),
        (
            make_side(NEAR, determinism=L4, sharpe=0.519),
            "equivalent",
            "rank correlation 1.000000 (bound 0.9999), net Sharpe ratios 0.0190 apart (bound 0.02)",
        ),
        (make_side(NEAR, versions={"jax": "0.11"}), "equivalent", "(jax 0.10.2, now 0.11)"),
        (make_side(NEAR, determinism=None), "equivalent", f"it was {CPU}, and is unknown"),
        (make_side(NEAR, determinism=f"{L4} not deterministic"), "equivalent", "is unknown"),
        (make_side(NEAR, determinism="unknown jax"), "equivalent", "is unknown"),
        (make_side(NEAR, determinism=L4, sharpe=0.521), "different", "0.0210 apart"),
        (make_side(NEAR, determinism=L4, sharpe=None), "different", "no net Sharpe ratio"),
        (make_side(FAR, determinism=L4), "different", "rank correlation -0.800000"),
        (make_side(SCORES[:3], determinism=L4), "different", "other rows: 4 and 3"),
        (make_side(NEAR, data={"sha256": "e"}), "different", "on other data: d, and now e"),
        (make_side(NEAR, data=None), "different", "on other data: d, and now None"),
        (make_side(NEAR, seed=8), "different", "another seed: 7, and now 8"),
        (make_side(NEAR, seed_count=3), "different", "another number of seeds: 1, and now 3"),
    ],
)
def test_an_outcome_is_identical_equivalent_or_different_by_its_class(now, verdict, reason):
    judged = judge_replay(make_side(), now)

    assert judged.verdict == verdict
    assert reason in judged.reason


def write_parts(scores, parts, times=None):
    days = times or [f"2014-01-{number:02d}" for number in range(1, len(scores) + 1)]
    rows = zip(days, parts, scores, strict=True)
    lines = "".join(f"{time},{part},{score!r},{-score!r}\n" for time, part, score in rows)
    return f"time,part,score_long,score_short\n{lines}".encode()


OF_BOTH_PARTS = write_parts([0.9, *SCORES], ["validation", *["test"] * 4], ["2013-12-31", *DAYS])


@pytest.mark.parametrize(
    ("was", "now", "verdict", "reason"),
    [
        (make_side(), make_side(predictions=OF_BOTH_PARTS), "identical", "number for number"),
        (make_side(predictions=OF_BOTH_PARTS), make_side(), "identical", "number for number"),
        (
            make_side(NEAR),
            make_side(predictions=OF_BOTH_PARTS, determinism=L4),
            "equivalent",
            "rank correlation 1.000000",
        ),
        # Another validation turns the same scores into other positions.
        (
            make_side(predictions=OF_BOTH_PARTS),
            make_side(predictions=OF_BOTH_PARTS.replace(b"0.9", b"0.8")),
            "different",
            "where bits must be the same",
        ),
        (
            make_side(predictions=OF_BOTH_PARTS),
            make_side(predictions=OF_BOTH_PARTS.replace(b"validation", b"test")),
            "different",
            "other rows: 5 and 5",
        ),
    ],
)
def test_outcomes_of_both_contracts_are_compared_by_their_scored_rows(was, now, verdict, reason):
    judged = judge_replay(was, now)

    assert judged.verdict == verdict
    assert reason in judged.reason


def test_two_of_no_class_are_compared_within_bounds():
    judged = judge_replay(make_side(determinism=None), make_side(NEAR, determinism=None))

    assert (judged.verdict, judged.is_same_class) == ("equivalent", False)
    assert judged.rank_correlation == {"score_long": 1.0, "score_short": 1.0}
    assert judged.sharpe_difference == 0


@pytest.mark.parametrize(
    ("was", "now", "verdict"),
    [
        ([0.5, 0.5], [0.25, 0.25], "equivalent"),
        ([0.5, 0.5], [0.5, 0.6], "different"),
        ([0.1, 0.1, 0.3], [0.2, 0.2, 0.4], "equivalent"),
    ],
)
def test_scores_that_are_equal_share_a_rank(was, now, verdict):
    judged = judge_replay(make_side(was), make_side(now, determinism=L4))

    assert judged.verdict == verdict


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "has no rows"),
        (b"time,target,score_long,score_short\n", "has no rows"),
        (b"\xff\xfe", "utf-8"),
        (b"time,score_long\nx,0.5\n", "line 2: score_short is None"),
        (b"time,score_long,score_short\nx,nan,0\n", "line 2: score_long is 'nan'"),
        (b"time,score_long,score_short\nx,inf,0\n", "'inf', not a finite number"),
        (b"time,score_long,score_short\nx," + b"9" * 999 + b",0\n", "not a finite number"),
        (b'time,score_long,score_short\n"x', "unexpected end of data"),
        (b"time,part,score_long,score_short\nx,train,1,1\n", "line 2: part is 'train', not"),
        (b"time,score_long,score_short,part\nx,1,1\n", "line 2: part is None, not"),
        (b"a" * 200_000 + b"\nx\n", "field larger than field limit"),
        (b"x" * (MAX_PREDICTIONS_BYTES + 1), "has more than"),
        (
            b"time,score_long,score_short\n" + b"x,1,1\n" * 500_001,
            "has more than 500000 rows",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_predictions_that_make_no_sense_are_refused_by_line(text, reason):
    with pytest.raises(ResultRefused, match=r"^predictions\.csv: ") as refused:
        read_predictions(text)

    assert reason in str(refused.value)
    assert len(str(refused.value)) < 300


# --- what is run --------------------------------------------------------------------------------


def make_task(*, gpus=0, status="success", changes=None, **fields):
    spec = TaskSpec(
        submission_id="s-1",
        task_id="i5",
        kind="training",
        system="feature_set",
        image="trainer:1",
        image_cuda="trainer:cuda",
        content_sha256="c" * 64,
        content_size=10,
        limits=Limits(memory_mib=2048),
        interval=5,
        schedule={
            "config_file": "fast.toml",
            "config_overrides": ("a.b=x y",),
            "passthrough_args": ("--units '8 0'",),
            "seed": 7,
            "priority": 50,
            "allowed_hosts": ("rio",),
        },
        elnigma=Checkout(commit="e" * 40, sha256="f" * 64, size=9),
        submitted_by="ann",
        **fields,
    )
    record = attempts.new_task(spec, run_id="s-1", map_index=0, now=NOW)
    record = attempts.claim_attempt(
        record,
        attempt=1,
        server="rio",
        container_of=lambda ref: ref.container_name("dev"),
        now=NOW,
        gpus=gpus,
    )
    return with_fields(record, **({"status": status, "image_digest": "sha256:1"} | (changes or {})))


def list_files(files):
    return [StoredFile.load(file) for file in files]


def replay(task, **changes):
    options = {"submission_id": "r-1", "user": "chief", **changes}
    return build_replay_spec(task, build_replayed(task, list_files(FILES)), **options)


def test_a_replay_runs_what_the_training_ran_under_a_name_of_its_own():
    task = make_task()
    spec, old = replay(task), task.spec

    new_ref = AttemptRef(submission_id="r-1", task_id="i5", attempt=1, fence=1)
    grants = {name: Grant.model_construct() for name in ("content", "elnigma")}
    starts = [build_start(each, new_ref, grants) for each in (spec, old)]
    for name in ("argv", "image", "limits", "prepare", "inputs"):
        assert getattr(starts[0], name) == getattr(starts[1], name)
    assert build_environment(spec, new_ref)["TOUCHSTONE_SEED"] == "7"
    assert build_environment(spec, new_ref)["TOUCHSTONE_SUBMISSION_ID"] == "r-1"
    assert (spec.submitted_by, spec.schedule.priority) == ("chief", 0), (
        "at the cost of whoever asked"
    )
    assert spec.replay is not None
    assert (spec.replay.key, spec.replay.ref.fence) == ("s-1/i5", 1)
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_what_ran_on_a_gpu_is_replayed_on_one_and_hosts_can_be_chosen():
    assert replay(make_task(gpus=1)).schedule.require_cuda is True
    assert replay(make_task()).schedule.require_cuda is False
    assert replay(make_task()).schedule.allowed_hosts == ("rio",)
    assert replay(make_task(), hosts=("moa",)).schedule.allowed_hosts == ("moa",)


def test_the_schedule_of_a_replay_says_the_same_as_the_training_was_told():
    spec = replay(make_task())

    schedule = build_replay_schedule(spec)

    assert schedule.passthrough_argv == ("--units", "8 0")
    assert (schedule.intervals, schedule.config_overrides) == ((5,), ("a.b=x y",))
    assert schedule.branch == "e" * 40
    assert "--config_override" in build_argv(spec)


@pytest.mark.parametrize(
    ("task", "objection"),
    [
        (make_task(), None),
        (make_task(status="error"), "it is error; only what has ended well"),
        (make_task(status="running"), "it is running"),
        (make_task(changes={"kind": "validation"}), "only a training can be replayed"),
        (make_task(replay=replay(make_task()).replay), "it is a replay itself, of s-1/i5"),
    ],
)
def test_only_a_training_that_ended_well_has_an_outcome_to_compare_with(task, objection):
    found = find_objection(task)

    assert (found is None) == (objection is None)
    assert (objection or "") in (found or "")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (FILES[:1], "s-1/i5 has left no predictions.csv to compare with"),
        (FILES[1:], "s-1/i5 has left no result.json to compare with"),
        (
            [FILES[0], {**FILES[1], "size": MAX_PREDICTIONS_BYTES + 1}],
            "predictions.csv of s-1/i5 has 33554433 bytes; at most 33554432 are compared",
        ),
    ],
)
def test_without_predictions_to_compare_with_nothing_is_run(files, reason):
    with pytest.raises(ConfigurationError, match=f"^replay: {reason}"):
        build_replayed(make_task(), list_files(files))


def test_a_replay_has_a_verdict_and_no_score():
    published = {
        "metrics": {"net_sharpe": 0.5},
        "replay": {"verdict": "identical", "reason": "the same predictions"},
    }
    task = make_task(changes={"published": published})

    judged = judge_submission([(task, task.newest.published)])

    assert (judged.status, judged.score) == ("success", None)
    assert (judged.verdict, judged.verdict_reason) == ("identical", "the same predictions")
    broken = with_fields(task, status="error", reason="gone", published=None)
    failed = judge_submission([(broken, None)])
    assert (failed.status, failed.verdict) == ("error", "not judged")


# --- what a run says of it ----------------------------------------------------------------------


def test_a_conf_may_name_a_replay_and_where_it_runs():
    sent = {"replay": "s-1/i5", "allowed_hosts": ["rio", ""], "notes": "why", "seed": 3}

    conf = parse_conf(sent)

    assert conf.replay is not None
    assert (conf.replay.submission_id, conf.replay.task_id) == ("s-1", "i5")
    assert conf.schedule is None
    assert build_conf(conf) == {"replay": "s-1/i5", "allowed_hosts": ["rio"], "notes": "why"}
    assert parse_conf(build_conf(conf)) == conf


@pytest.mark.parametrize(
    ("conf", "reason"),
    [
        ({"replay": "s-1"}, "replay: 's-1' is not SUBMISSION/TASK"),
        ({"replay": "s-1/validation"}, "replay: 's-1/validation' is not"),
        ({"replay": "../x/i5"}, "replay: '../x/i5' is not"),
        ({"replay": "s-1/i5\n"}, "replay: "),
        ({"replay": "s-1/i0"}, "replay: "),
        ({"replay": "s" * 60 + "/i5"}, "replay: "),
        ({"replay": 5}, "replay: "),
        ({"replay": "s-1/i5", "source": "https://host/x.git"}, "replay: give neither a source"),
        ({"replay": "s-1/i5", "submission_id": "s-1"}, "replay: give neither a source"),
        ({"replay": "s-1/i5", "intervals": "5"}, "intervals: a replay trains what"),
        ({"replay": "s-1/i5", "allowed_hosts": ["x" * 61]}, "allowed_hosts.0: "),
    ],
)
def test_a_replay_that_makes_no_sense_is_refused_by_its_fields_name(conf, reason):
    with pytest.raises(ConfigurationError) as refused:
        parse_conf(conf)

    assert str(refused.value).startswith(reason)
