"""A new submission by a form: from git or as an archive, once however often it is sent."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile

import pytest

from fakes.outline import assert_harmless, look
from touchstone.core.conf import MAX_NOTES, parse_conf
from touchstone.core.names import build_content_key, is_submission_id
from touchstone.core.refs import parse_listing
from touchstone.pages.posted import MAX_FORM_BYTES
from touchstone.services.looking import LookGate
from touchstone.ui import dependencies
from touchstone.ui.archives import UploadGate
from touchstone.ui.routes.content import get_gate
from touchstone.ui.routes.sources import get_list_refs, get_look_gate

OURS = {"Sec-Fetch-Site": "same-origin"}
XSS = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'javascript:"
GIT = "https://host.example/owner/module.git"


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"git_hosts": ("host.example",)})


def pack(name="features.py", body=b"x = 1\n"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(body)
        archive.addfile(member, io.BytesIO(body))
    return file.getvalue()


GOOD = pack()
SHA256 = hashlib.sha256(GOOD).hexdigest()


def open_form(client, **query):
    return dict(look(client.get("/new", params=query)).forms["/new"])


def send(client, fields, archive=None, *, name="module.tar.gz", headers=OURS):
    # A browser sends a file without a name where none was chosen.
    file = ("", b"") if archive is None else (name, archive, "application/gzip")
    parts = {key: (None, value) for key, value in fields.items()} | {"archive": file}
    if archive is None:
        parts = {key: (None, value) for key, value in fields.items()}
    return client.post("/new", files=parts, headers=headers, follow_redirects=False)


def submit(client, archive=None, **fields):
    return send(client, open_form(client) | fields, archive)


def test_a_git_source_is_submitted_as_its_user(engineer, runs):
    answer = submit(engineer, source=GIT, ref="main", path="sets/a", notes="first\r\nsecond")

    (run_id,) = runs.runs
    assert (answer.status_code, answer.headers["location"]) == (303, f"/submissions/{run_id}")
    assert is_submission_id(run_id)
    assert runs.runs[run_id].user == "engineer"
    assert runs.runs[run_id].conf == {
        "source": GIT,
        "system": "feature_set",
        "ref": "main",
        "path": "sets/a",
        "notes": "first\nsecond",
    }
    assert parse_conf(runs.runs[run_id].conf).schedule is None


def test_an_archive_is_kept_under_its_digest_and_submitted(engineer, runs, objects, settings):
    answer = submit(engineer, GOOD, system="model_structure")

    assert answer.status_code == 303
    (run,) = runs.runs.values()
    assert run.conf["source"] == f"upload:{SHA256}"
    assert run.conf["system"] == "model_structure"
    assert objects.get(settings.content_bucket, build_content_key(SHA256)) == GOOD
    # Its page tells the digest before there is a record.
    assert SHA256 in engineer.get(answer.headers["location"]).text


def test_an_archive_wins_over_what_is_typed(engineer, runs):
    submit(engineer, GOOD, source=GIT)

    (run,) = runs.runs.values()
    assert run.conf["source"] == f"upload:{SHA256}"


def test_a_schedule_may_come_with_it(engineer, runs):
    fields = {"schedule.intervals": "1,5", "schedule.seed": "3"}

    assert submit(engineer, source=GIT, **fields).status_code == 303

    (run,) = runs.runs.values()
    assert (run.conf["intervals"], run.conf["seed"]) == ("1,5", 3)


def test_without_intervals_there_is_no_schedule(engineer, runs):
    assert submit(engineer, source=GIT, **{"schedule.seed": "3"}).status_code == 303

    (run,) = runs.runs.values()
    assert "seed" not in run.conf
    assert parse_conf(run.conf).schedule is None


# --- waived columns -------------------------------------------------------------------------------


def test_columns_are_waived_a_line_each(engineer, runs):
    answer = submit(engineer, source=GIT, waived_columns="target\r\n\r\na b\r\n")

    assert answer.status_code == 303
    (run,) = runs.runs.values()
    assert run.conf["waived_columns"] == ["target", "", "a b"]
    assert parse_conf(run.conf).source.waived_columns == ("target", "a b")


@pytest.mark.parametrize(
    "typed", ["spr\u00e4d", "x" * 101, "\n".join(map(str, range(21))), "a\na", XSS + "\x00", "{in}"]
)
def test_what_is_wrong_with_a_waived_column_stands_beside_the_field(engineer, runs, typed):
    answer = submit(engineer, source=GIT, waived_columns=typed)

    assert_harmless(answer, status=422)
    assert 'id="waived_columns-error"' in answer.text
    assert runs.runs == {}


def test_a_changed_one_begins_with_the_same_columns_waived(engineer, make_submission):
    make_submission("s-1", source_url=GIT, waived_columns=["target", "a b"])

    assert open_form(engineer, like="s-1")["waived_columns"] == "target\na b"


# --- once -----------------------------------------------------------------------------------------


def test_the_same_form_sent_again_is_one_submission(engineer, runs):
    fields = open_form(engineer) | {"source": GIT}

    answers = [send(engineer, fields) for _ in range(3)]

    assert {answer.status_code for answer in answers} == {303}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(runs.runs) == 1


def test_the_same_archive_sent_again_is_one_submission(engineer, runs):
    fields = open_form(engineer)

    assert [send(engineer, fields, GOOD).status_code for _ in range(2)] == [303, 303]
    assert len(runs.runs) == 1


def test_the_same_form_with_other_values_asks_again_under_another_id(engineer, runs):
    fields = open_form(engineer) | {"source": GIT}
    send(engineer, fields)

    answer = send(engineer, fields | {"notes": "another"})

    assert_harmless(answer, status=409)
    again = dict(look(answer).forms["/new"])
    assert again["id"] != fields["id"]
    assert again["notes"] == "another"
    assert len(runs.runs) == 1
    assert send(engineer, again).status_code == 303
    assert len(runs.runs) == 2


def test_an_id_that_is_on_record_is_not_taken_again(engineer, runs, make_submission):
    make_submission("theirs-1", submitted_by="other")

    answer = submit(engineer, source=GIT, id="theirs-1")

    assert answer.status_code == 409
    assert runs.runs == {}


@pytest.mark.parametrize("chosen", ["", "a--2", "A", "../x", XSS, "x" * 60])
def test_an_id_that_is_none_is_replaced(engineer, runs, chosen):
    answer = submit(engineer, source=GIT, id=chosen)

    assert_harmless(answer, status=422)
    assert is_submission_id(dict(look(answer).forms["/new"])["id"])
    assert runs.runs == {}


# --- what is wrong stands beside its field --------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"source": ""}, "source"),
        ({"source": "https://elsewhere.example/a.git"}, "source"),
        ({"source": "/etc/passwd"}, "source"),
        ({"source": f"upload:{'0' * 64}"}, "source"),
        ({"source": "upload:nonsense"}, "source"),
        ({"source": f"{GIT}", "ref": "--upload-pack=x"}, "ref"),
        ({"source": GIT, "path": "../x"}, "path"),
        ({"source": GIT, "system": "moon"}, "system"),
        ({"source": GIT, "notes": "x" * (MAX_NOTES + 1)}, "notes"),
        ({"source": GIT, "schedule.intervals": "0"}, "schedule-intervals"),
        ({"source": GIT, "schedule.intervals": "5", "schedule.event": "no"}, "schedule-event"),
        ({"source": GIT, "schedule.intervals": "5", "schedule.branch": "x"}, "schedule-branch"),
        ({"source": GIT, "schedule.intervals": "5", "schedule.baseline": "x"}, "schedule-baseline"),
        ({"source": GIT, "schedule.intervals": "5", "schedule.platform": "runpod"},
         "schedule-platform"),
    ],
)  # fmt: skip
def test_what_is_wrong_stands_beside_its_field_and_what_was_typed_stays(
    engineer, runs, fields, name
):
    answer = submit(engineer, **fields)

    assert_harmless(answer, status=422)
    assert f'id="{name}-error"' in answer.text
    typed = dict(look(answer).forms["/new"])
    assert {key: value for key, value in fields.items() if typed.get(key, value) != value} == {}
    assert runs.runs == {}


BAD = {
    "nothing": b"",
    "not packed": b"x = 1\n",
    "not a tar": gzip.compress(b"x"),
    "cut off": GOOD[:40],
    "upwards": pack("../x"),
    "absolute": pack("/etc/x"),
}


@pytest.mark.parametrize("archive", BAD.values(), ids=BAD)
def test_an_archive_is_looked_through_before_it_is_kept(engineer, runs, objects, archive):
    answer = submit(engineer, archive, notes="mine")

    assert_harmless(answer, status=422)
    assert 'id="archive-error"' in answer.text
    assert dict(look(answer).forms["/new"])["notes"] == "mine"
    assert runs.runs == {}


def test_an_archive_that_was_taken_need_not_be_chosen_again(engineer, runs):
    wrong = submit(engineer, GOOD, path="../x")

    assert_harmless(wrong, status=422)
    assert SHA256 in wrong.text
    again = dict(look(wrong).forms["/new"]) | {"path": "."}
    assert send(engineer, again).status_code == 303
    (run,) = runs.runs.values()
    assert run.conf["source"] == f"upload:{SHA256}"


def test_an_archive_has_no_ref(engineer, runs):
    answer = submit(engineer, GOOD, ref="main")

    assert answer.status_code == 422
    assert 'id="ref-error"' in answer.text
    assert runs.runs == {}


@pytest.mark.parametrize("size", [200_001, 200_000 + MAX_FORM_BYTES + 1])
def test_an_archive_that_is_too_large_is_told_beside_its_field(engineer, runs, objects, size):
    before = len(vars(objects).get("_objects", ()))

    answer = submit(engineer, b"\0" * size)

    assert answer.status_code in {413, 422}
    assert "larger than" in answer.text
    assert 'id="archive-error"' in answer.text
    assert runs.runs == {}
    assert len(vars(objects).get("_objects", ())) == before


@pytest.mark.parametrize("name", ["source", "ref", "path", "notes", "schedule.job", "id", "more"])
def test_no_field_becomes_markup(engineer, name):
    answer = submit(engineer, **({"source": GIT, "system": "moon"} | {name: XSS}))

    assert_harmless(answer, status=422)


def test_a_files_name_is_nobodys_business(engineer, runs):
    answer = send(engineer, open_form(engineer), GOOD, name=XSS)

    assert answer.status_code == 303
    (run,) = runs.runs.values()
    assert "script" not in str(run.conf)


# --- who ------------------------------------------------------------------------------------------


def test_a_viewer_submits_nothing(login, runs):
    fields = open_form(login()) | {"source": GIT}
    viewer = login(role="viewer")

    assert viewer.get("/new").status_code == 403
    assert send(viewer, fields).status_code == 403
    assert "/new" not in look(viewer.get("/submissions")).links()
    assert runs.runs == {}


def test_who_may_submit_is_offered_the_form(engineer):
    assert "/new" in look(engineer.get("/submissions")).links()


def test_a_form_of_another_site_is_not_even_read(engineer, runs, app):
    gate = UploadGate(total=0)
    app.dependency_overrides[get_gate] = lambda: gate

    answer = send(engineer, {"source": GIT}, GOOD, headers={"Sec-Fetch-Site": "cross-site"})

    # A gate that lets nobody in answers who gets as far as it.
    assert answer.status_code == 403
    assert send(engineer, {"source": GIT}, GOOD).status_code == 429
    assert runs.runs == {}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "multipart/form-data", 422),
        (b"", "multipart/form-data; boundary=x", 422),
        (b"nonsense", "multipart/form-data; boundary=x", 422),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
         "multipart/form-data; boundary=x", 422),
        (b"{}", "application/json", 415),
        (b"id=s-12", "application/x-www-form-urlencoded", 422),
    ],
)  # fmt: skip
def test_a_body_that_is_no_form_of_ours_is_refused(engineer, runs, body, kind, status):
    answer = engineer.post("/new", content=body, headers=OURS | {"Content-Type": kind})

    assert answer.status_code == status
    assert runs.runs == {}


def test_a_form_of_many_fields_or_files_is_refused(engineer, runs):
    fields = {f"f{number}": (None, "1") for number in range(200)}
    files = {f"f{number}": ("a.tar.gz", GOOD) for number in range(3)}

    for parts in (fields, files):
        assert engineer.post("/new", files=parts, headers=OURS).status_code == 422
    assert runs.runs == {}


# --- a changed one --------------------------------------------------------------------------------


def test_a_submission_fills_in_the_form(engineer, make_submission):
    make_submission(
        "s-1",
        status="success",
        system="model_structure",
        source_url=GIT,
        source_ref="main",
        source_path="sets/a",
        notes="first\nsecond",
        schedule={"intervals": [1, 5], "seed": 9},
    )

    assert "/new?like=s-1" in look(engineer.get("/submissions/s-1")).links()
    held = open_form(engineer, like="s-1")

    assert held["id"] != "s-1"
    told = {name: held[name] for name in ("source", "system", "ref", "path", "notes")}
    assert told == {
        "source": GIT,
        "system": "model_structure",
        "ref": "main",
        "path": "sets/a",
        "notes": "first\nsecond",
    }
    assert (held["schedule.intervals"], held["schedule.seed"]) == ("1,5", "9")


def test_somebody_elses_submission_fills_in_nothing(login, make_submission):
    make_submission("s-1", source_url=GIT)
    stranger = login("other")

    foreign = stranger.get("/new", params={"like": "s-1"})
    missing = stranger.get("/new", params={"like": "s-2"})

    assert foreign.status_code == missing.status_code == 404
    assert foreign.text == missing.text.replace("s-2", "s-1")


def test_a_hostile_record_fills_in_the_form_as_text(engineer, make_submission):
    make_submission(
        "s-1", source_url=XSS, source_ref=XSS, source_path=XSS, notes=XSS, waived_columns=[XSS]
    )

    assert_harmless(engineer.get("/new", params={"like": "s-1"}))


# --- until it is on record ------------------------------------------------------------------------


def test_a_submission_whose_run_waits_to_begin_has_a_page(engineer, login, runs):
    submit(engineer, source=GIT, notes=XSS)
    (run_id,) = runs.runs

    own = engineer.get(f"/submissions/{run_id}")

    assert_harmless(own)
    assert "waits to begin" in own.text
    assert "data-live" in own.text
    assert GIT in own.text
    assert login("chief", "admin").get(f"/submissions/{run_id}").status_code == 200
    stranger = login("other")
    foreign, missing = stranger.get(f"/submissions/{run_id}"), stranger.get("/submissions/gone-1")
    assert foreign.status_code == missing.status_code == 404
    assert re.sub(run_id, "gone-1", foreign.text) == missing.text


def test_once_it_is_on_record_the_record_is_shown(engineer, runs, make_submission):
    submit(engineer, source=GIT)
    (run_id,) = runs.runs
    make_submission(run_id, status="validating")

    assert "waits to begin" not in engineer.get(f"/submissions/{run_id}").text


def test_a_run_that_ended_without_a_record_is_not_waited_for(engineer, runs, app):
    submit(engineer, source=GIT)
    (run_id,) = runs.runs
    runs.ended.add(run_id)

    assert engineer.get(f"/submissions/{run_id}").status_code == 404


# --- before it is sent ----------------------------------------------------------------------------

HEAD = "1" * 40
LISTED = f"""ref: refs/heads/main\tHEAD
{HEAD}\tHEAD
{HEAD}\trefs/heads/main
{HEAD}\trefs/heads/<b>evil</b>
"""


@pytest.fixture
def look_gate():
    return LookGate()


@pytest.fixture
def listed(app, look_gate):
    app.dependency_overrides[get_list_refs] = lambda: lambda settings, url: parse_listing(LISTED)
    app.dependency_overrides[get_look_gate] = lambda: look_gate


def check(client, archive=None, **fields):
    parts = {key: (None, value) for key, value in (open_form(client) | fields).items()}
    if archive is not None:
        parts["archive"] = ("module.tar.gz", archive, "application/gzip")
    return client.post("/new/check", files=parts, headers=OURS, follow_redirects=False)


@pytest.mark.usefixtures("listed")
def test_looking_offers_refs_tells_the_commit_and_sends_nothing(engineer, runs, make_submission):
    make_submission("same-1", commit=HEAD, source_path=".", system="feature_set")
    fields = {"source": GIT, "ref": "main", "notes": "kept", "schedule.seed": "3"}

    answer = check(engineer, **fields)

    assert_harmless(answer)
    assert '<option value="main">branch at 111111111111</option>' in answer.text
    assert '<option value="&lt;b&gt;evil&lt;/b&gt;">' in answer.text
    assert HEAD in answer.text
    assert "/submissions/same-1" in look(answer).links()
    typed = dict(look(answer).forms["/new"])
    assert {key: typed[key] for key in fields} == fields
    assert runs.runs == {}
    # What was looked at is sent as it is.
    assert send(engineer, typed).status_code == 303


@pytest.mark.usefixtures("listed")
def test_looking_keeps_the_id_that_the_submission_will_have(engineer):
    fields = open_form(engineer)

    assert (
        dict(look(check(engineer, source=GIT, id=fields["id"])).forms["/new"])["id"]
        == (fields["id"])
    )


@pytest.mark.usefixtures("listed")
def test_an_archive_is_listed_and_need_not_be_chosen_again(engineer, runs):
    answer = check(engineer, pack("<img src=x>.py"))

    assert_harmless(answer)
    assert "&lt;img src=x&gt;.py" in answer.text
    typed = dict(look(answer).forms["/new"])
    assert typed["source"].startswith("upload:")
    assert send(engineer, typed).status_code == 303
    (run,) = runs.runs.values()
    assert run.conf["source"] == typed["source"]


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"source": ""}, "source"),
        ({"source": "https://elsewhere.example/a.git"}, "source"),
        ({"source": GIT, "ref": "none"}, "ref"),
        ({"source": GIT, "ref": XSS}, "ref"),
        ({"source": GIT, "path": "../x"}, "path"),
        ({"source": f"https://host.example/{'x' * 4096}"}, "source"),
        ({"source": "https://host.example/a\u202eb"}, "source"),
    ],
)
def test_what_is_wrong_with_a_source_stands_beside_its_field(engineer, fields, name):
    answer = check(engineer, **fields)

    assert_harmless(answer, status=422)
    assert f'id="{name}-error"' in answer.text


def test_a_bad_archive_is_told_as_when_it_is_sent(engineer):
    answer = check(engineer, b"nonsense")

    assert_harmless(answer, status=422)
    assert 'id="archive-error"' in answer.text


@pytest.mark.usefixtures("listed")
def test_who_looks_already_is_asked_to_wait(engineer, look_gate):
    with look_gate.enter("engineer"):
        answer = check(engineer, source=GIT)

    assert_harmless(answer, status=429)
    assert dict(look(answer).forms["/new"])["source"] == GIT


def test_a_viewer_looks_at_nothing(login):
    client = login(role="viewer")

    assert client.post("/new/check", data={"source": GIT}, headers=OURS).status_code == 403


def test_quotas_hosts_and_the_connection_are_told_at_once(engineer):
    text = engineer.get("/new").text

    assert "default: no limit" in text
    assert "<code>host.example</code>" in text
    assert "Only public repositories can be read" in text


def test_the_connection_for_private_repositories_is_named(engineer, settings, app):
    named = settings.model_copy(update={"git_conn_id": "team_git"})
    app.dependency_overrides[dependencies.read_settings] = lambda: named

    assert "connection <code>team_git</code>" in engineer.get("/new").text
