"""Two folds of an interval, trained by the real trainer and judged by the real judge."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from touchstone.confined.judge import find_judge
from touchstone.confined.judging import ask_judge
from touchstone.confined.pooling import ask_for_pooled
from touchstone.confined.verdicts import ask_for_verdicts
from touchstone.core.events import BUILT_IN
from touchstone.core.fold_results import build_question
from touchstone.core.judging_rules import build_rules
from touchstone.core.records.events import EventRecord
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import (
    build_argv,
    build_environment,
    build_training_specs,
    build_validation_spec,
)
from touchstone.core.verdicts import join_series
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import AttemptRef, Limits

# All of it shares two trainings, which each process would run for itself.
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("folds")]

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "include" / "elnigma" / ".venv" / "bin" / "python"
MODULE = ROOT / "include" / "examples" / "momentum"
SCHEDULE = Schedule(
    intervals=[5],
    folds=["2005-01-01", "2012-01-01"],
    config_file="fast.toml",
    config_overrides=["training.epochs=1"],
)


def train(spec, out):
    """Run a training as its START says, without a container."""
    out.mkdir()
    replaced = {"{in}/content": str(MODULE), "{out}": str(out)}
    command, *words = (replaced.get(word, word) for word in build_argv(spec))
    ref = AttemptRef(submission_id="s-1", task_id=spec.task_id, attempt=1, fence=1)
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(out), "LANG": "C.UTF-8"}
    variables |= build_environment(spec, ref) | {"TOUCHSTONE_OUT": str(out)}
    done = subprocess.run(
        [str(TRAINER), "-P", "-m", "elnigma_runner", command, *words],
        env=variables,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (out / "console.log").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two folds with what the judge says of each."""
    validation = build_validation_spec(
        "s-1",
        system="feature_set",
        image="trainer",
        content_sha256="a" * 64,
        content_size=9,
        limits=Limits(),
    )
    specs = build_training_specs(validation, SCHEDULE, limits=Limits())
    python, found = find_judge(Settings()), []
    for spec in specs:
        folder = tmp_path_factory.mktemp("folds") / spec.task_id
        train(spec, folder)
        rules = build_rules(spec.data, spec.fold)
        found.append((spec, folder, ask_judge(python, folder, rules, 5)))
    return found


def test_each_fold_is_judged_on_its_own_rows(trained):
    for spec, folder, answer in trained:
        assert (answer.judged, answer.reason) == (True, None)
        days = [time[:10] for time in answer.time]
        assert days[0] >= spec.fold.test_from.isoformat()
        assert spec.fold.test_to is None or days[-1] <= spec.fold.test_to.isoformat()
        assert json.loads((folder / "result.json").read_text())["task_id"] == spec.task_id
    (_, _, first), (_, _, second) = trained
    times = [*first.time, *second.time]
    assert all(before < after for before, after in pairwise(times))
    assert len(times) > 3500


def test_a_fold_by_the_rules_of_another_is_on_other_rows(trained):
    (_, folder, _), (other, _, _) = trained

    answer = ask_judge(find_judge(Settings()), folder, build_rules(None, other.fold), 5)

    assert not answer.judged
    assert answer.reason.startswith("other rows (split.validation_from is 2004-01-01, the rules")
    whole = ask_judge(find_judge(Settings()), folder, build_rules(None), 5)
    assert whole.reason.startswith("other rows (split.validation_from is 2004-01-01, the rules")


OTHER_ROWS = {
    "one row is missing": lambda test: test[1:],
    "the last row is missing": lambda test: test[:-1],
    "one row is of a day that is none": lambda test: [test[0].replace("-0", "-1", 1), *test[1:]],
    "one row is there twice": lambda test: [test[0], *test],
    "two rows have changed places": lambda test: [test[1], test[0], *test[2:]],
    "it has a row of the next fold": lambda test: [*test, "2012-01-03T00:00:00+00:00,test,.5,.5"],
    "it has a row of the one before": lambda test: ["2004-12-31T00:00:00+00:00,test,.5,.5", *test],
    "a row that scales is judged": lambda test: test,
}
"""By what is otherwise: the lines of judged rows that a training leaves."""


@pytest.mark.parametrize("name", OTHER_ROWS)
def test_a_fold_on_any_other_row_than_the_judges_own_is_not_judged(trained, tmp_path, name):
    """Rows are not sent with the task: both sides find them, and each single one is compared."""
    spec, folder, _ = trained[0]
    header, *lines = (folder / "predictions.csv").read_text().splitlines()
    border = next(number for number, line in enumerate(lines) if ",test," in line)
    before, test = lines[:border], OTHER_ROWS[name](lines[border:])
    if name == "a row that scales is judged":
        before[-1] = before[-1].replace(",validation,", ",test,")
    (tmp_path / "result.json").write_bytes((folder / "result.json").read_bytes())
    (tmp_path / "predictions.csv").write_text("\n".join([header, *before, *test, ""]))

    answer = ask_judge(find_judge(Settings()), tmp_path, build_rules(spec.data, spec.fold), 5)

    assert not answer.judged
    assert answer.reason.startswith("other rows (predictions.csv: "), answer.reason


def test_all_rows_of_both_are_scored_once_and_a_verdict_counts_them(trained):
    series = [answer.series for _, _, answer in trained]
    rows = sum(len(each.time) for each in series)

    pooled = ask_for_pooled(find_judge(Settings()), build_question(series, build_rules(None), 5))

    assert pooled.reason == ""
    assert pooled.metrics["n_test_rows"] == rows
    low, high = (pooled.metrics[f"net_sharpe_{end}"] for end in ("low", "high"))
    assert low < pooled.metrics["net_sharpe"] < high
    joined = join_series(BUILT_IN, {5: series}, {5: ["1", "2"]})
    event = EventRecord(entry="default", definition=BUILT_IN, digest="0")
    question = {
        "folds": list(joined.folds),
        "baseline": "flat",
        "baseline_net": None,
        "market": joined.market,
        "series": [{"name": "s-1", "net": joined.net, "prediction": None, "content": "c"}],
        "rows": len(joined.times),
        "intervals": [5],
        "bars_per_year": event.definition.judging.bars_per_year,
        "seed": 1,
        "arrivals": 100,
        "judged": ["s-1"],
    }
    said = ask_for_verdicts(find_judge(Settings()), question)
    assert said.verdicts["s-1"].outcome in {"better", "worse", "not distinguishable"}
    # Of the same rows, with the market in, the judge of results says the same.
    assert said.scores["s-1"].net_sharpe == pytest.approx(pooled.metrics["net_sharpe"], rel=1e-9)
