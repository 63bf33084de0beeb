"""The routes of data sets: who may add them, and what everybody may see."""

from __future__ import annotations

import pytest

from fakes.data_sets import BODY, build_text, pack
from touchstone.settings import Settings
from touchstone.ui.archives import UploadGate
from touchstone.ui.routes.content import get_gate

DATA = "/api/v1/data"
GZIP = {"Content-Type": "application/gzip"}


@pytest.fixture
def settings() -> Settings:
    return Settings(content_bytes=200_000, data_bytes=20_000)


@pytest.fixture
def archive(tmp_path):
    return pack(tmp_path / "set")


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 403), ("op", 200)])
def test_only_who_may_edit_pools_adds_a_data_set(login, objects, archive, role, status):
    answer = login(role=role).post(DATA, content=archive, headers=GZIP)

    assert answer.status_code == status
    assert len(objects.objects) == (status == 200)


def test_adding_twice_changes_nothing_and_everybody_sees_it(login, archive):
    chief = login("chief", "admin")

    first = chief.post(DATA, content=archive, headers=GZIP).json()
    again = chief.post(DATA, content=archive, headers=GZIP).json()

    assert (first["is_changed"], again["is_changed"]) == (True, False)
    assert first["digest"] == again["digest"]
    assert (first["added_by"], first["bars_per_year"]) == ("chief", 6240)
    assert first["data_bytes"] == len(BODY)
    viewer = login(role="viewer")
    listed = viewer.get(DATA).json()
    assert [each["version"] for each in listed["data_sets"]] == ["2018-02"]
    assert (listed["built_in"], listed["unreadable"]) == ("sp500", {})
    shown = viewer.get(f"{DATA}/eurusd-hourly").json()
    assert shown["versions"] == listed["data_sets"]
    assert shown["versions"][0]["rows"] == {
        "validation_from": "2017-10-01",
        "test_from": "2017-12-01",
    }


def test_another_content_is_refused_with_the_field(login, archive, tmp_path):
    chief = login("chief", "admin")
    chief.post(DATA, content=archive, headers=GZIP)

    answer = chief.post(DATA, content=pack(tmp_path / "x", title='"Other"'), headers=GZIP)

    assert answer.status_code == 400
    assert "eurusd-hourly 2018-02 is there already" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data", ""])
def test_a_page_elsewhere_can_send_nothing_that_is_taken(login, objects, archive, kind):
    answer = login("chief", "admin").post(DATA, content=archive, headers={"Content-Type": kind})

    assert answer.status_code == 415
    assert objects.objects == {}


@pytest.mark.parametrize("body", [b"", b"x" * 100, b"PK\x03\x04"])
def test_what_is_no_data_set_is_refused(login, objects, body):
    answer = login("chief", "admin").post(DATA, content=body, headers=GZIP)

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("data: the archive ")
    assert objects.objects == {}


def test_a_data_set_that_is_too_large_is_refused_unread(login, settings):
    declared = GZIP | {"Content-Length": str(settings.data_bytes + 1)}
    chief = login("chief", "admin")

    assert chief.post(DATA, content=b"x", headers=declared).status_code == 413
    stream = iter([b"\0" * (settings.data_bytes + 1)])
    assert chief.post(DATA, content=stream, headers=GZIP).status_code == 413


def test_a_data_set_that_unpacks_to_far_more_is_refused(login, settings, tmp_path, objects):
    bomb = pack(tmp_path / "set", body=bytes(4 * settings.data_bytes + 1))
    assert len(bomb) < settings.data_bytes

    answer = login("chief", "admin").post(DATA, content=bomb, headers=GZIP)

    assert answer.status_code == 400
    assert "unpacks to more than 80000 bytes" in answer.json()["detail"]
    assert objects.objects == {}


def test_uploads_of_data_sets_are_counted_like_all_others(app, login, archive):
    app.dependency_overrides[get_gate] = lambda: UploadGate(total=0)

    assert login("chief", "admin").post(DATA, content=archive, headers=GZIP).status_code == 429


@pytest.mark.parametrize(
    ("name", "status"), [("none", 404), ("sp500", 404), ("A", 400), ("..%2Fx", 404)]
)
def test_a_data_set_that_is_not_there_is_not_found_and_no_path_is_one(engineer, name, status):
    assert engineer.get(f"{DATA}/{name}").status_code == status


PRIVATE = {"text": build_text(), "digest": "d" * 64, "data_bytes": 10}


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 403), ("op", 200)])
def test_of_a_private_data_set_a_description_is_put_on_record_and_nothing_is_stored(
    login, objects, role, status
):
    answer = login(role=role).post(f"{DATA}/private", json=PRIVATE)

    assert answer.status_code == status
    assert objects.objects == {}
    if status == 200:
        shown = answer.json()
        assert (shown["is_private"], shown["is_complete"], shown["is_changed"]) == (True,) * 3
        assert shown["digest"] == "d" * 64
        again = login(role=role).post(f"{DATA}/private", json=PRIVATE).json()
        assert not again["is_changed"]


def test_what_is_private_becomes_nothing_else_and_nothing_becomes_private(login, objects, archive):
    chief = login("chief", "admin")
    chief.post(f"{DATA}/private", json=PRIVATE)

    answer = chief.post(DATA, content=archive, headers=GZIP)
    other = chief.post(f"{DATA}/private", json={**PRIVATE, "digest": "e" * 64})

    assert (answer.status_code, objects.objects) == (400, {})
    assert "is there as private" in answer.json()["detail"]
    assert "another content, of digest d" in other.json()["detail"]


def test_what_was_shared_cannot_become_private(login, archive):
    chief = login("chief", "admin")
    chief.post(DATA, content=archive, headers=GZIP)

    answer = chief.post(f"{DATA}/private", json=PRIVATE)

    assert answer.status_code == 400
    assert "cannot become private" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {**PRIVATE, "digest": "x"},
        {**PRIVATE, "text": "name = 1"},
        {**PRIVATE, "data_bytes": -1},
        {**PRIVATE, "archive": "x"},
    ],
)
def test_an_odd_description_is_refused(login, body):
    assert login("chief", "admin").post(f"{DATA}/private", json=body).status_code in {400, 422}
