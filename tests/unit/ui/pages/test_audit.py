"""The pages of the audit."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.api import NOW
from touchstone.pages import audit
from unit.ui.pages.test_pages import OURS, XSS, assert_harmless, look


def act(records, submission_id="s-1", number=0, **changes):
    told = {"at": NOW + timedelta(seconds=number), "by": "engineer", "action": f"act {number}"}
    records.change_submission(submission_id, lambda found: found.note_action(**(told | changes)))


def test_what_an_admin_does_on_a_page_came_in_at_a_page(admin):
    admin.post("/fleet/pause", data={"reason": ""}, headers=OURS)

    text = admin.get("/audit").text

    assert "<td>page</td>" in text
    assert "chief" in text
    assert "pause" in text


def test_the_audit_of_all_is_for_admins_and_others_have_no_link_to_it(engineer, login):
    assert engineer.get("/audit").status_code == 403
    assert "/audit" not in look(engineer.get("/submissions")).links()
    assert "/audit" in look(login("chief", "admin").get("/submissions")).links()


def test_a_submissions_page_leads_to_its_audit(engineer, records, make_submission):
    make_submission()
    act(records)

    assert "/submissions/s-1/audit" in look(engineer.get("/submissions/s-1")).links()
    text = engineer.get("/submissions/s-1/audit").text
    assert "act 0" in text
    assert "touchstone audit s-1 --json" in text


def test_no_field_becomes_markup(admin, records, make_submission):
    make_submission()
    act(records, by=XSS, action=XSS)

    for path in ("/audit", "/submissions/s-1/audit"):
        answer = admin.get(path)
        assert_harmless(answer)
        assert "&lt;script&gt;" in answer.text


def test_nothing_yet_and_nothing_older_are_said(admin):
    assert "No acts yet" in admin.get("/audit").text
    cursor = "MjAyNi0wMS0wMVQwMDowMDowMCswMDowMCB4"
    assert "Nothing older" in admin.get("/audit", params={"cursor": cursor}).text


@pytest.mark.parametrize("path", ["/audit", "/submissions/s-1/audit"])
def test_a_long_audit_leads_from_page_to_page(admin, records, make_submission, monkeypatch, path):
    monkeypatch.setattr(audit, "PAGE_SIZE", 2)
    make_submission()
    for number in range(3):
        act(records, number=number)

    first = admin.get(path)
    following = next(link for link in look(first).links() if "cursor=" in link)
    second = admin.get(following)

    assert ("act 2" in first.text, "act 0" in first.text) == (True, False)
    assert ("act 2" in second.text, "act 0" in second.text) == (False, True)
    assert "data-live" in first.text
    assert "data-live" not in second.text, "an older page stays as it is"
