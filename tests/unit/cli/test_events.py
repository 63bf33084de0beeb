"""The commands about events, against the real API."""

from __future__ import annotations

import json

import pytest

from fakes.api import NOW
from fakes.events import EventWorld, FakeJudge, build_beside, build_net
from touchstone.stores.parts import Parts

SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


@pytest.fixture
def world(airflow):
    settings = airflow.settings
    parts = Parts(airflow.objects, settings.content_bucket)
    world = EventWorld(airflow.records, parts, FakeJudge(), settings)
    world.now = NOW
    return world


@pytest.fixture
def folder(tmp_path, run, monkeypatch):
    folder = tmp_path / "events"
    folder.mkdir()
    monkeypatch.setenv("TOUCHSTONE_EVENTS_DIR", str(folder))
    return folder


def test_one_bad_file_keeps_no_other_and_is_named_with_its_key(run, folder, world):
    (folder / "a.toml").write_text(SMALL + "tittle = 1")
    (folder / "b.toml").write_text(SMALL)
    (folder / "B C.toml").write_text(SMALL)

    done = run("event", "apply", "--all")

    assert done.exit_code == 2
    assert "b: applied" in done.output
    assert f"{folder / 'a.toml'}: event a: tittle: unknown key; did you mean title?" in done.output
    assert f"{folder / 'B C.toml'}: event: 'B C' cannot be an event's name" in done.output
    assert [each.name for each in world.events.list_events().records] == ["b", "default"]


def test_the_same_file_again_is_as_it_was(run, folder):
    (folder / "b.toml").write_text(SMALL)

    assert run("event", "apply", str(folder / "b.toml")).output == "b: applied\n"
    assert run("event", "apply", str(folder / "b.toml")).output == "b: as it was\n"


@pytest.mark.parametrize("arguments", [(), ("x.toml", "--all"), ("--all",)])
def test_what_to_apply_must_be_said_and_be_there(run, folder, arguments):
    assert run("event", "apply", *arguments).exit_code == 2


def test_an_engineer_may_not_apply(run, folder):
    (folder / "b.toml").write_text(SMALL)

    done = run("event", "apply", "--all", "--as", "engineer")

    assert done.exit_code == 1
    assert "admins only" in done.output


def test_events_are_listed_and_shown(run, folder, world):
    (folder / "b.toml").write_text(SMALL + "[quota]\nsubmissions = 2\nhours = 24")
    run("event", "apply", "--all")

    assert "default" in run("event", "list").output
    assert "2 in 24 hours" in run("event", "show", "b").output
    assert "touchstone event baseline b ID" in run("event", "show", "b").output
    assert json.loads(run("event", "show", "b", "--json").output)["title"] == "Sharpe"
    assert run("event", "show", "../b").exit_code == 2
    assert "there are b, default" in run("event", "show", "none").output


def test_a_board_shows_references_and_n_beside_every_p(run, world):
    assert "flat" in run("event", "baseline", "default", "flat").output
    world.arrive("s-1", build_net(2))
    world.arrive("s-2", None)

    shown = run("leaderboard", "default").output
    board = json.loads(run("leaderboard", "default", "--json").output)

    lines = shown.splitlines()
    assert {"flat", "index"} <= {line.split()[1] for line in lines[1:4]}
    assert "n/a" in lines[4]
    assert "s-2: i1: other rows" in shown
    assert [row["n"] for row in board["rows"] if row["p"] is not None] == [1]


def test_submissions_are_compared_with_all_that_was_said_of_each(run, world):
    world.arrive("s-1", build_net(2))
    world.keeper.set_baseline("default", "flat", by="admin")
    world.judge_again(world.enter("s-1"))

    shown = run("compare", "s-1", "s-9").output

    assert "arrival: Not judged: the event has no baseline" in shown
    assert "arrival: Not distinguishable: `flat`." in shown
    assert "s-9: has entered no event" in shown
    assert run("compare", "../x").exit_code == 2


def test_a_board_shows_what_stands_beside_each_verdict_and_why_it_does_not(run, world):
    run("event", "baseline", "default", "flat")
    judge = world.judge._ask
    judge.beside = build_beside(similarity="the baseline holds nothing", nearest_name="s-0:12")
    world.arrive("s-1", build_net(2))
    judge.beside = build_beside(
        contributivity=0.0, equal_share=0.5, nearest=0.95, nearest_name="s-0:12"
    )
    world.arrive("s-2", build_net(3))
    judge.beside = None
    world.arrive("s-3", build_net(4))
    world.arrive("s-4", None)

    lines = run("leaderboard", "default").output.splitlines()

    cells = {line.split()[1]: line.split() for line in lines if len(line.split()) > 8}
    assert cells["s-1"][9:14] == ["1", "n/a", "0.75", "+0.125", "n/a"]
    assert cells["s-2"][10:14] == ["0.50", "0.95", "+0.125", "0.00"], "a share of nothing is one"
    assert " s-2 is like s-0, which came before: 0.95" in lines
    shown = "\n".join(lines)
    assert "like base n/a: the baseline holds nothing (s-1)" in shown
    assert "share n/a: it is told when the event is closed (s-1)" in shown
    assert "like base, most like, adds, share n/a: judged before it was computed (s-3)" in shown
    assert "share: each of as many equals would get 0.50" in shown
    assert "adds: the baseline's own correlation with the outcome is +0.062" in shown
    assert "compared with nothing" not in shown, "its reason is there"


def test_a_board_tells_who_leads_and_what_choosing_the_best_is_worth(run, world):
    run("event", "baseline", "default", "flat")
    judge = world.judge._ask
    told = [("s-1", 0.04, 0.25), ("s-2", 0.1, 0.25), ("s-3", 0.11, 0.5), ("s-4", 1.0, 0.25)]
    for number, (name, leading, overfitting) in enumerate(told):
        judge.beside = build_beside(leading=leading, overfitting=overfitting)
        world.arrive(name, build_net(number))

    lines = run("leaderboard", "default").output.splitlines()

    leaders = next(line for line in lines if line.startswith(" leading group, 90 %: "))
    assert sorted(leaders.partition(": ")[2].split(", ")) == ["s-3", "s-4"]
    assert any(line.endswith("is below the median of the others: 0.25 to 0.50") for line in lines)
    shown = run("compare", "s-2", "s-3").output
    assert "s-2: leading group: not in it, p 0.10" in shown
    assert "s-3: leading group: in it, p 0.11" in shown
    assert "s-3: deflated Sharpe: 0.88" in shown


def test_a_board_without_a_leader_says_so_and_one_before_closing_says_nothing(run, world):
    run("event", "baseline", "default", "flat")
    judge = world.judge._ask
    judge.beside = build_beside(overfitting="it is the only entry")
    world.arrive("s-1", build_net(1))

    assert "leading group" not in run("leaderboard", "default").output
    assert "overfitting" not in run("leaderboard", "default").output
    judge.beside = build_beside(leading=0.01)
    world.arrive("s-2", build_net(2))

    assert " leading group, 90 %: the baseline alone" in run("leaderboard", "default").output


def test_hostile_names_move_no_cursor_and_are_no_markup(run, world):
    run("event", "baseline", "default", "flat")
    name = "[red]x\x1b[2J:12"
    world.judge._ask.beside = build_beside(
        nearest=0.99, nearest_name=name, contribution="no\x1b[2J\nn/a [b]"
    )
    world.arrive("s-1", build_net(2))

    for shown in (run("leaderboard", "default").output, run("compare", "s-1").output):
        assert "\x1b[2J" not in shown
        assert "[red]x" in shown


def test_compare_and_show_tell_what_stands_beside_a_verdict(run, world):
    run("event", "baseline", "default", "flat")
    world.judge._ask.beside = build_beside(similarity=0.25, nearest_name="s-0:12")
    entry = world.arrive("s-1", build_net(2), user="engineer")

    shown = run("compare", "s-1").output
    assert "s-1: similarity: 0.25 to flat" in shown
    assert "s-1: most like: 0.75 to s-0" in shown
    assert "s-1: adds: +0.125; the baseline's own correlation is +0.062" in shown
    assert "s-1: share, leading group: n/a: it is told when the event is closed" in shown

    world.records.change_submission(
        "s-1",
        lambda found: found.change(
            similarity=0.25,
            beside=entry.verdict.beside,
            results=[{"task_id": "i1", "interval": 1, "status": "success"}],
        ),
    )
    told = " ".join(run("show", "s-1").output.split())
    assert "similarity 0.25 to flat" in told
    assert "most like 0.75 to s-0" in told
    told = " ".join(run("results", "s-1").output.split())
    assert "similarity: 0.25 to flat" in told


def test_what_an_event_refuses_is_refused_before_anything_is_sent(run, folder, airflow, world):
    (folder / "b.toml").write_text(SMALL + "opens_at = 2027-01-01T00:00:00Z")
    run("event", "apply", "--all")

    url = "https://host.test/owner/module.git"
    done = run("submit", url, "--intervals", "1", "--event", "b")

    assert done.exit_code == 2
    assert "event: the event 'b' opens at 2027-01-01 00:00 UTC" in done.output
    assert airflow.runs == {}


def test_closing_is_a_run_that_is_waited_for(run, airflow, world):
    run("event", "baseline", "default", "flat")
    world.arrive("s-1", build_net(2))

    def close():
        (run_id,) = airflow.runs
        world.judge.close(airflow.runs[run_id]["conf"]["event"], by="admin")
        airflow.runs[run_id]["state"] = "success"

    airflow.steps = [lambda: None, close]
    done = run("event", "close", "default", "--json")

    assert json.loads(done.output)["closed_at"]


def test_closing_that_fails_names_the_run(run, airflow, world):
    run("event", "baseline", "default", "flat")

    def fail():
        next(iter(airflow.runs.values()))["state"] = "failed"

    airflow.steps = [fail]
    done = run("event", "close", "default")

    assert done.exit_code == 1
    assert "was not closed: see the log of run close-default-" in done.output


def test_an_event_without_a_baseline_is_not_closed(run, airflow):
    done = run("event", "close", "default")

    assert done.exit_code == 2
    assert "touchstone event baseline default ID" in done.output
    assert airflow.runs == {}


def test_figures_are_compared_by_interval_as_a_table_json_and_csv(run, airflow, world):
    world.train("ref", build_net(1), user="engineer")
    world.keeper.set_baseline("default", "ref", by="admin")
    world.arrive("s-1", build_net(2), user="engineer")
    metrics = {"net_sharpe": 0.51234, "net_sharpe_low": 0.1, "net_sharpe_high": 0.9}
    line = {"task_id": "i5", "interval": 5, "status": "success", "judged": "judged"}
    airflow.records.change_submission(
        "s-1", lambda found: found.change(results=[line | {"metrics": metrics}])
    )

    table = run("compare", "s-1", "ref", "--by-interval")
    document = json.loads(run("compare", "s-1", "ref", "--by-interval", "--json").output)
    rows = run("compare", "s-1", "ref", "--csv").output.splitlines()

    assert table.exit_code == 0
    assert "0.5123 [0.1, 0.9]" in table.output
    assert "ref (baseline)" in table.output
    assert "s-1: default, against ref: not distinguishable" in table.output
    assert "ref: default: the baseline" in table.output
    assert document["submissions"][0]["intervals"][0]["figures"]["net_sharpe"] == 0.51234
    assert rows[1].startswith("s-1,engineer,false,default,not distinguishable")
    assert "0.51234,0.1,0.9" in rows[1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("s-1", "--by-interval"), "submission"),
        (("s-1", "s-1", "--by-interval"), "submission: name 2 to 5 different ones"),
        (("s-1", "s-2", "--csv", "--json"), "csv: choose either"),
        (("s-1", "S 2", "--csv"), "id"),
    ],
)
def test_what_cannot_be_compared_by_interval_is_named(run, arguments, told):
    done = run("compare", *arguments)

    assert done.exit_code == 2
    assert told in done.output


def test_boards_and_comparisons_name_the_columns_that_are_waived(run, world):
    run("event", "baseline", "default", "flat")
    world.arrive("s-1", build_net(2), waived=["target", "a b"])
    world.arrive("s-2", build_net(3))

    board = run("leaderboard", "default").output
    told = "waived columns: 'target', 'a b'; no look-ahead is held against them"

    assert "s-1 (waived columns)" in board
    assert f" s-1: {told}" in board
    assert "s-2 (waived" not in board
    compared = run("compare", "s-1", "s-2").output
    assert f" s-1: {told}" in compared
    assert "2 columns are waived from the checks for look-ahead." in compared
    assert "s-1: waived columns" in run("compare", "s-1", "s-2", "--by-interval").output


def test_an_event_shows_whether_it_takes_waived_columns(run, folder):
    (folder / "b.toml").write_text(SMALL)
    (folder / "c.toml").write_text(SMALL + "waivers = true")
    run("event", "apply", "--all")

    assert "refused" in run("event", "show", "b").output
    assert "taken" in run("event", "show", "c").output


def test_an_event_and_its_board_tell_the_folds(run, folder, world):
    rows = "[rows]\nfolds = [2005-01-01, 2010-01-01, 2014-01-01]\n[judging]\nbaseline = 'flat'"
    (folder / "b.toml").write_text(SMALL + rows)
    run("event", "apply", "--all")
    days = ["2005-01-01", "2010-01-01", "2014-01-01"]
    world.arrive("s-1", build_net(2), event="b", folds=days)

    assert ", ".join(days) in run("event", "show", "b").output
    assert "folds: 3 (s-1)" in run("leaderboard", "b").output
    assert "s-1: folds: 3" in run("compare", "s-1").output
    board = json.loads(run("leaderboard", "b", "--json").output)["rows"]
    assert {row["name"]: row["fold_count"] for row in board} == {
        "s-1": 3,
        "flat": None,
        "index": None,
    }


def test_an_event_without_folds_tells_none_on_its_board(run, world):
    run("event", "baseline", "default", "flat")
    world.arrive("s-1", build_net(2))

    assert "folds" not in run("leaderboard", "default").output
    assert "folds" not in run("compare", "s-1").output


def test_a_board_of_several_pages_is_shown_whole(run, world, monkeypatch):
    monkeypatch.setattr("touchstone.client.api.LIST_LIMIT", 2)
    world.keeper.set_baseline("default", "flat", by="chief")
    for number in range(5):
        world.arrive(f"s-{number}", build_net(2))

    board = json.loads(run("leaderboard", "default", "--json").output)

    names = {row["name"] for row in board["rows"]}
    assert names == {"flat", "index", *(f"s-{number}" for number in range(5))}
    assert (len(board["rows"]), board["count"], board["next"]) == (7, 7, None)
    shown = run("leaderboard", "default").output
    assert all(name in shown for name in names)
