"""Some submissions beside each other, as the API answers it."""

from __future__ import annotations

import pytest

from fakes.events import EventWorld, FakeJudge, build_net
from touchstone.stores.parts import Parts

COMPARISON = "/api/v1/comparison"


@pytest.fixture
def world(records, objects, settings):
    return EventWorld(records, Parts(objects, settings.content_bucket), FakeJudge(), settings)


@pytest.fixture
def judged(world, records):
    """A baseline of the admin's, and two submissions of two users that were compared with it."""
    world.train("ref", build_net(1), user="chief")
    world.keeper.set_baseline("default", "ref", by="chief")
    for name, user in (("s-1", "engineer"), ("s-2", "other")):
        world.arrive(name, build_net(2, edge=0.002), user=user)
    for name in ("ref", "s-1", "s-2"):
        line = {
            "task_id": "i5",
            "interval": 5,
            "status": "success",
            "judged": "judged",
            "metrics": {"net_sharpe": 0.25, "net_sharpe_low": -0.5, "net_sharpe_high": 1.0},
        }
        records.change_submission(name, lambda found, line=line: found.change(results=[line]))


def ask(client, *names):
    answer = client.get(COMPARISON, params={"submission": list(names)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_admin_compares_all_with_the_baseline_beside_them(login, judged):
    found = ask(login("chief", "admin"), "s-1", "s-2")

    assert [(each["submission_id"], each["is_baseline"]) for each in found["submissions"]] == [
        ("s-1", False),
        ("s-2", False),
        ("ref", True),
    ]
    first = found["submissions"][0]
    assert first["verdicts"][0]["verdict"] == "not distinguishable"
    assert first["verdicts"][0]["why"] == "Not distinguishable: `ref`."
    assert first["verdicts"][0]["baseline"] == "ref"
    assert first["intervals"][0]["figures"]["net_sharpe"] == 0.25
    assert found["intervals"] == [5]


def test_a_baseline_that_is_asked_for_is_there_once(login, judged):
    found = ask(login("chief", "admin"), "ref", "s-1")

    assert [each["submission_id"] for each in found["submissions"]] == ["ref", "s-1"]
    assert found["submissions"][0]["is_baseline"] is True


def test_a_user_sees_of_others_what_the_board_says_and_no_figure(engineer, judged):
    found = ask(engineer, "s-1", "s-2")

    theirs = next(each for each in found["submissions"] if each["submission_id"] == "s-2")
    assert theirs["verdicts"][0]["verdict"] == "not distinguishable"
    assert (theirs["intervals"], theirs["status"], theirs["score"]) == ([], None, None)
    assert "another user's" in theirs["note"]


def test_what_is_not_there_and_what_is_another_users_are_missing_alike(engineer, make_submission):
    make_submission("mine-1")
    make_submission("theirs-1", submitted_by="other")

    found = ask(engineer, "mine-1", "theirs-1", "none-1")

    assert found["missing"] == ["theirs-1", "none-1"]
    assert [each["submission_id"] for each in found["submissions"]] == ["mine-1"]


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ([], 422),
        (["s-1"], 422),
        ([f"s-{number}" for number in range(6)], 422),
        (["s-1", "x" * 10_000], 422),
        (["s-1", "s-1"], 400),
        (["s-1", "../x"], 400),
        (["s-1", ""], 400),
    ],
)
@pytest.mark.parametrize("path", [COMPARISON, f"{COMPARISON}.csv"])
def test_what_cannot_be_compared_is_refused_by_its_name(engineer, path, names, status):
    answer = engineer.get(path, params={"submission": names})

    assert answer.status_code == status
    assert answer.json()["field"].startswith("submission")


def test_a_record_that_makes_no_sense_hides_no_other(engineer, judged, records, settings):
    stored = records.get_stored(settings.submissions_table, "s-1")
    records.put_stored(settings.submissions_table, stored | {"status": "nonsense"})

    found = ask(engineer, "s-1", "s-2")

    notes = {each["submission_id"]: each["note"] for each in found["submissions"]}
    assert "makes no sense" in notes["s-1"]
    assert "another user's" in notes["s-2"]


def test_the_csv_is_a_download_of_the_same(login, judged):
    answer = login("chief", "admin").get(f"{COMPARISON}.csv", params={"submission": ["s-1", "s-2"]})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    lines = answer.text.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("s-1,engineer,false,default,not distinguishable,")


def test_waived_columns_are_told_of_others_too(engineer, world):
    world.train("ref", build_net(1), user="chief", waived=["r"])
    world.keeper.set_baseline("default", "ref", by="chief")
    for name, user in (("s-1", "engineer"), ("s-2", "other")):
        world.arrive(name, build_net(2), user=user, waived=["=x", "y"])

    found = ask(engineer, "s-1", "s-2")
    lines = engineer.get(f"{COMPARISON}.csv", params={"submission": ["s-1", "s-2"]}).text

    told = {each["submission_id"]: each["waived_columns"] for each in found["submissions"]}
    assert told == {"s-1": ["=x", "y"], "s-2": ["=x", "y"], "ref": ["r"]}
    assert "\"'=x', 'y'\"" in lines
