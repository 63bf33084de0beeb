"""What a caller has already is not sent again."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import httpx
import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from fakes.api import NOW
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.pages.app import build_app as build_pages
from touchstone.ui.conditional import Conditional, compute_tag, is_known

ADDRESS = "/api/v1/submissions/s-1"


def ask(client, tag, address=ADDRESS):
    return client.get(address, headers={"If-None-Match": tag})


def test_an_answer_that_the_caller_has_is_not_sent(engineer, make_submission):
    make_submission()
    first = engineer.get(ADDRESS)

    again = ask(engineer, first.headers["ETag"])

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert "content-length" not in again.headers
    assert "content-type" not in again.headers
    # With all that stands on every answer.
    assert again.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in again.headers["Content-Security-Policy"]


def test_one_that_has_changed_is(engineer, make_submission, records):
    make_submission()
    first = engineer.get(ADDRESS)
    records.change_submission("s-1", lambda found: found.change(reason="slow"))

    again = ask(engineer, first.headers["ETag"])

    assert (again.status_code, again.json()["submission"]["reason"]) == (200, "slow")
    assert again.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("known", ["{}", '"other", {}', 'W/"a",{} , "b"', "*"])
def test_one_of_several_tags_is_enough(engineer, make_submission, known):
    make_submission()
    tag = engineer.get(ADDRESS).headers["ETag"]

    assert ask(engineer, known.format(tag)).status_code == 304
    assert ask(engineer, known.format(tag.removeprefix("W/"))).status_code == 304


@pytest.mark.parametrize("known", ["", '"', "W/", '"other"', "a" * 4000, '""', "\xff".encode()])
def test_any_other_header_is_as_good_as_none(engineer, make_submission, known):
    make_submission()
    assert ask(engineer, known).status_code == 200


def test_that_a_dispatcher_was_seen_again_is_no_change(
    engineer, make_submission, objects, settings
):
    """Else nothing would stay the same for two seconds."""
    make_submission()
    queue = Queue(at=NOW - timedelta(seconds=3), dispatcher="d-1")
    objects.put(settings.content_bucket, QUEUE_KEY, queue.model_dump_json().encode())
    first = engineer.get(ADDRESS)
    assert first.json()["dispatcher"]["is_alive"]

    later = first.content.replace(b"11:59:57+", b"11:59:58+")

    assert later != first.content
    assert compute_tag(later) == first.headers["ETag"]


def test_that_it_is_dead_is_one(engineer, make_submission):
    make_submission()
    body = engineer.get(ADDRESS).content
    alive = body.replace(b'"is_alive":false', b'"is_alive":true')

    assert alive != body
    assert compute_tag(alive) != compute_tag(body)


def test_nobody_hides_a_change_by_what_they_write(engineer, make_submission):
    """Notes that look like the dispatcher's part are in the tag like all else."""
    told = '"dispatcher":{"is_alive":true,"is_paused":true,"seen_at":"%s"'
    make_submission("s-1", notes=told % 1)
    one = engineer.get(ADDRESS).content

    assert compute_tag(one.replace(b'\\"1\\"', b'\\"2\\"')) != compute_tag(one)


def test_the_rules_come_first(login, make_submission):
    """Who may not see something is not told that it has not changed."""
    make_submission(submitted_by="ada")
    tag = login("ada").get(ADDRESS).headers["ETag"]

    assert ask(login("engineer"), tag).status_code == 404
    assert ask(login("engineer"), "*").status_code == 404


def test_what_is_no_whole_answer_has_no_tag(engineer, make_submission):
    make_submission()

    assert "ETag" not in engineer.get("/api/v1/submissions/s-2").headers
    cancelled = engineer.post(f"{ADDRESS}/cancel", json={}, headers={"If-None-Match": "*"})
    assert (cancelled.status_code, "ETag" in cancelled.headers) == (200, False)


async def send_in_pieces(scope, receive, send):
    await StreamingResponse(iter([b"a", b"b"]))(scope, receive, send)


async def send_tagged(scope, receive, send):
    headers = [(b"etag", b'"own"'), (b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x"})


@pytest.mark.parametrize(
    ("inner", "tag", "body"), [(send_in_pieces, None, "ab"), (send_tagged, '"own"', "x")]
)
def test_a_stream_and_what_has_a_tag_pass_as_they_are(inner, tag, body):
    answer = TestClient(Conditional(inner)).get("/", headers={"If-None-Match": "*"})

    assert (answer.status_code, answer.text, answer.headers.get("ETag")) == (200, body, tag)


def test_a_fault_before_the_body_is_still_a_fault():
    async def fail(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("boom")

    client = TestClient(Conditional(fail))
    with pytest.raises(RuntimeError, match="boom"):
        client.get("/")


def test_pages_have_tags_too(overrides, make_submission):
    app = build_pages()
    app.dependency_overrides |= overrides
    app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(
        username="engineer", role="user"
    )
    make_submission()
    client = TestClient(app)
    first = client.get("/submissions/s-1")

    assert first.status_code == 200, first.text
    assert ask(client, first.headers["ETag"], "/submissions/s-1").status_code == 304
    # A file has the server's own tag.
    script = client.get("/static/touchstone.js")
    assert not script.headers["ETag"].startswith("W/")
    assert ask(client, script.headers["ETag"], "/static/touchstone.js").status_code == 304


def test_the_description_says_so(engineer):
    document = engineer.get("/api/v1/openapi.json").json()

    assert "If-None-Match" in document["info"]["description"]
    for operations in document["paths"].values():
        for method, operation in operations.items():
            names = [each["name"] for each in operation.get("parameters", [])]
            assert ("If-None-Match" in names) == (method == "get")
            assert ("304" in operation["responses"]) == (method == "get")


def test_a_tag_is_short_and_of_the_body_alone():
    assert compute_tag(b"x") == f'W/"{hashlib.sha256(b"x").hexdigest()[:32]}"'
    assert is_known(f"  {compute_tag(b'x')} ", compute_tag(b"x"))
    assert httpx.Headers({"ETag": compute_tag(b"x")})["ETag"].isascii()
