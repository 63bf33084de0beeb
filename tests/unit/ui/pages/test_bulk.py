"""Several submissions cancelled or retracted at once."""

from __future__ import annotations

import pytest

from fakes.outline import assert_harmless, look
from touchstone.pages.bulk import MAX_ENDED
from touchstone_agent.protocol.errors import TransientError

OURS = {"Sec-Fetch-Site": "same-origin"}
XSS = "<script>alert(1)</script>"


def tell(client, act, *ids):
    return client.get("/end", params={"act": act, "submission": list(ids)})


def end(client, act, *ids):
    return client.post("/end", data={"act": act, "submission": list(ids)}, headers=OURS)


def test_what_would_end_is_told_first_and_nothing_is_done(
    engineer, make_submission, make_task, cancel_service
):
    make_submission("s-1")
    make_task("s-1", "i5")
    make_task("s-1", "i20", status="success")
    make_submission("s-2")
    make_task("s-2", "i5")

    answer = tell(engineer, "cancel", "s-1", "s-2", "s-1", "gone-1")

    assert_harmless(answer)
    assert "2 tasks that have not ended will end" in answer.text
    form = look(answer).forms["/end"]
    assert form == [("act", "cancel"), ("submission", "s-1"), ("submission", "s-2")]
    assert cancel_service.calls == []


@pytest.mark.parametrize("act", ["cancel", "retract"])
def test_each_is_ended_and_what_stops_one_stops_no_other(
    engineer, make_submission, cancel_service, act
):
    make_submission("s-1")
    make_submission("theirs-1", submitted_by="other")
    make_submission("s-2")

    answer = end(engineer, act, "s-1", "theirs-1", "s-2")

    assert_harmless(answer)
    assert [call[:2] for call in cancel_service.calls] == [(act, "s-1"), (act, "s-2")]
    assert "2 done" in answer.text
    assert "1 not" in answer.text
    assert "there is no submission" in answer.text


def test_a_store_that_does_not_answer_for_one_is_told_at_its_row(
    engineer, make_submission, cancel_service, monkeypatch
):
    make_submission("s-1")
    make_submission("s-2")
    real = cancel_service.cancel

    def fail_once(submission_id, **told):
        if submission_id == "s-1":
            raise TransientError("dynamodb: secret address")
        return real(submission_id, **told)

    monkeypatch.setattr(cancel_service, "cancel", fail_once)

    answer = end(engineer, "cancel", "s-1", "s-2")

    assert "1 done" in answer.text
    assert "does not answer right now" in answer.text
    assert "secret" not in answer.text
    assert [call[1] for call in cancel_service.calls] == ["s-2"]


@pytest.mark.parametrize("ids", [[], [f"s-{n}" for n in range(MAX_ENDED + 1)], ["x" * 4096]])
def test_none_too_many_or_no_ids_are_refused(engineer, cancel_service, ids):
    assert tell(engineer, "cancel", *ids).status_code in {400, 422}
    assert_harmless(end(engineer, "cancel", *ids), status=400)
    assert cancel_service.calls == []


@pytest.mark.parametrize("act", ["", "delete", XSS])
def test_another_act_is_refused(engineer, make_submission, cancel_service, act):
    make_submission("s-1")

    assert_harmless(tell(engineer, act, "s-1"), status=422)
    assert_harmless(end(engineer, act, "s-1"), status=400)
    assert cancel_service.calls == []


@pytest.mark.parametrize("odd", [XSS, "a\u202eb", "\x1b[31m", "../x"])
def test_a_hostile_id_is_a_row_and_no_markup(engineer, odd):
    assert_harmless(tell(engineer, "cancel", odd))
    assert_harmless(end(engineer, "retract", odd))


def test_a_viewer_ends_nothing(login, make_submission, cancel_service):
    make_submission("s-1")
    viewer = login(role="viewer")

    assert tell(viewer, "cancel", "s-1").status_code == 403
    assert end(viewer, "cancel", "s-1").status_code == 403
    assert "/end" not in viewer.get("/submissions").text
    assert cancel_service.calls == []


def test_the_list_leads_to_it_without_script(engineer, make_submission):
    make_submission("s-1")

    buttons = [v for t, n, v in look(engineer.get("/submissions")).attributes if n == "formaction"]

    assert buttons == ["/schedule", "/end", "/end"]
