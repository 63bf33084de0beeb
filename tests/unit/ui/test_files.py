"""A training's files are listed with addresses, to its submitter alone, as far as shown."""

from __future__ import annotations

from datetime import date

import pytest

from fakes.tasks import build_spec, build_task
from touchstone.core.data_sets import PinnedData
from touchstone.ui.routes.files import NOT_YET, STAY

PRIVATE = PinnedData(
    name="desk",
    version="1",
    digest="d" * 64,
    sha256="",
    size=0,
    validation_from=date(2017, 10, 1),
    test_from=date(2017, 12, 1),
    bars_per_year=6240,
    is_private=True,
)
URL = "/api/v1/submissions/s-1/tasks/i5/files"
FILES = [
    {"path": "result.json", "sha256": "b" * 64, "size": 20},
    {"path": "models/long.h5", "sha256": "a" * 64, "size": 10},
    {"path": "predictions.csv", "sha256": "c" * 64, "size": 30},
]
PUBLISHED = {"metrics": {}, "models": [], "published_at": "2026-11-22T12:00:00+00:00"}


@pytest.fixture
def train(records, make_submission):
    """Return a function that has a training end with its files."""

    def write(spec=None, **published):
        make_submission("s-1", status="success")
        fields = {"status": "success", "attempt": 1, "fence": 1, "files": FILES}
        if published.pop("is_published", True):
            fields["published"] = PUBLISHED | published
        records.create_task(build_task(spec, **fields))

    return write


def test_files_are_listed_by_path_with_where_they_can_be_read(engineer, settings, train):
    train()

    told = engineer.get(URL).json()

    assert [each["path"] for each in told["files"]] == [
        "models/long.h5",
        "predictions.csv",
        "result.json",
    ]
    model = told["files"][0]
    assert (model["size"], model["sha256"], told["note"]) == (10, "a" * 64, None)
    assert settings.content_bucket in model["url"]
    assert "models/long.h5" in model["url"]
    assert model["expires_at"]


def test_what_an_event_holds_back_is_not_among_them(engineer, train):
    train(held_back="shown when the event closes")

    told = engineer.get(URL).json()

    assert [each["path"] for each in told["files"]] == ["models/long.h5"]
    assert told["note"] == "shown when the event closes"


def test_before_it_is_judged_there_are_none(engineer, train):
    train(is_published=False)
    assert (engineer.get(URL).json()["files"], engineer.get(URL).json()["note"]) == ([], NOT_YET)


def test_files_on_private_data_stay_where_they_are(engineer, train):
    train(build_spec(data=PRIVATE))
    told = engineer.get(URL).json()
    assert (told["files"], told["note"]) == ([], STAY)


def test_anothers_files_are_not_there(login, train):
    train()
    assert login("somebody").get(URL).status_code == 404
