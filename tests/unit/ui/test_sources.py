"""A source before it is sent: what it is, what was sent before, what quotas leave."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from fakes.api import NOW
from touchstone.confined.archives import MAX_LISTED
from touchstone.core.names import build_content_key
from touchstone.core.refs import parse_listing
from touchstone.services.looking import MAX_REFS, LookGate, LooksBusy
from touchstone.ui.routes.sources import get_list_refs, get_look_gate
from touchstone_agent.protocol.errors import ConfigurationError

GIT = "https://host.example/owner/module.git"
HEAD, OLD = "1" * 40, "2" * 40
LISTED = f"""ref: refs/heads/main\tHEAD
{HEAD}\tHEAD
{HEAD}\trefs/heads/main
{OLD}\trefs/heads/both
{HEAD}\trefs/tags/both
{OLD}\trefs/tags/v1
"""


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"git_hosts": ("host.example",)})


@pytest.fixture
def asked():
    return []


@pytest.fixture
def gate():
    return LookGate()


@pytest.fixture(autouse=True)
def repository(app, asked, gate):
    """Return what the host lists, to be replaced."""
    listed = {"text": LISTED}

    def list_refs(settings, url):
        asked.append(url)
        if isinstance(listed["text"], Exception):
            raise listed["text"]
        return parse_listing(listed["text"])

    app.dependency_overrides[get_list_refs] = lambda: list_refs
    app.dependency_overrides[get_look_gate] = lambda: gate
    return listed


def look(client, **body):
    return client.post("/api/v1/sources/look", json={"source": GIT} | body)


def pack(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return file.getvalue()


def upload(client, files):
    body = pack(files)
    answer = client.post(
        "/api/v1/content", content=body, headers={"Content-Type": "application/gzip"}
    )
    return answer.json()["source"]


def test_refs_are_offered_and_the_default_branch_is_a_commit(engineer):
    found = look(engineer).json()

    assert found["commit"] == HEAD
    assert [(each["name"], each["kind"]) for each in found["refs"]] == [
        ("main", "branch"),
        ("refs/heads/both", "branch"),
        ("v1", "tag"),
        ("refs/tags/both", "tag"),
    ]
    assert found["archive"] is None
    assert [each["event"] for each in found["quotas"]] == ["default"]


@pytest.mark.parametrize(
    ("ref", "commit", "note"),
    [
        ("v1", OLD, None),
        ("refs/heads/both", OLD, None),
        (OLD, OLD, None),
        (HEAD.upper(), HEAD, None),
        ("a" * 40, "a" * 40, "shows when it is fetched"),
        ("abcd12", None, "beginning of a commit's id"),
    ],
)
def test_a_ref_is_a_commit_before_it_is_sent(engineer, ref, commit, note):
    found = look(engineer, ref=ref).json()

    assert found["commit"] == commit
    assert (note or "") in (found["ref_note"] or "")
    assert (found["ref_note"] is None) == (note is None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ref": "none-such"}, "ref"),
        ({"ref": "origin/main"}, "ref"),
        ({"ref": "both"}, "ref"),
        ({"ref": "main~1"}, "ref"),
        ({"ref": "--upload-pack=x"}, "ref"),
        ({"source": "https://elsewhere.example/a.git"}, "source"),
        ({"source": "https://user:secret@host.example/a.git"}, "source"),
        ({"source": "/etc"}, "source"),
        ({"source": f"upload:{'0' * 64}"}, "source"),
        ({"path": "../x"}, "path"),
    ],
)
def test_what_would_be_refused_is_refused_with_its_field(engineer, body, field):
    answer = look(engineer, **body)

    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"source": ""},
        {"source": "x" * 4096},
        {"ref": "x" * 4096},
        {"system": "moon"},
        {"more": 1},
        {"ref": None},
    ],
)
def test_a_body_of_another_form_is_refused_and_nobody_is_asked(engineer, asked, body):
    assert look(engineer, **body).status_code == 422
    assert asked == []


@pytest.mark.parametrize("odd", ["<script>", "a\u202eb", "\x1b[31m", "x\ny"])
def test_hostile_text_comes_to_no_host_or_is_data(engineer, asked, odd):
    assert look(engineer, source=f"https://host.example/{odd}").status_code in {200, 400}
    assert look(engineer, ref=odd).status_code == 400


def test_a_host_that_does_not_answer_is_told_in_its_words(engineer, repository):
    repository["text"] = ConfigurationError("source: cannot be read within 15 s")

    answer = look(engineer)

    assert (answer.status_code, answer.json()["field"]) == (400, "source")


def test_an_empty_repository_says_so(engineer, repository):
    repository["text"] = ""

    assert "no commits" in look(engineer).json()["detail"]


def test_of_thousands_of_refs_some_are_offered_and_any_may_be_typed(engineer, repository):
    repository["text"] = LISTED + "".join(f"{OLD}\trefs/tags/t{n:05}\n" for n in range(5000))

    found = look(engineer, ref="t00000").json()

    assert len(found["refs"]) == MAX_REFS
    assert found["refs_left_out"] == 5004 - MAX_REFS
    assert found["refs"][0]["name"] == "main"
    assert found["commit"] == OLD


def test_one_user_looks_at_one_source_at_a_time_and_few_do_at_once(engineer, gate, asked):
    with gate.enter("engineer"):
        answer = look(engineer)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["field"] == "source"
    with gate.enter("a"), gate.enter("b"), gate.enter("c"), gate.enter("d"):
        assert look(engineer).status_code == 429
    assert asked == []
    assert look(engineer).status_code == 200


def test_a_gate_lets_go_of_one_who_has_failed():
    gate = LookGate(total=1)
    with pytest.raises(KeyError), gate.enter("a"):
        raise KeyError
    with gate.enter("b"), pytest.raises(LooksBusy):
        gate.enter("c").__enter__()


# --- archives -------------------------------------------------------------------------------------


def test_an_archives_files_are_listed_with_its_digest(engineer, objects, settings):
    files = {"features.py": b"x = 1\n", "sets/<b>.py": b"yy"}
    source = upload(engineer, files)

    found = look(engineer, source=source).json()

    archive = found["archive"]
    assert source == f"upload:{archive['sha256']}"
    stored = objects.get(settings.content_bucket, build_content_key(archive["sha256"]))
    assert archive["sha256"] == hashlib.sha256(stored).hexdigest()
    assert (archive["count"], archive["size"]) == (2, 8)
    assert archive["files"] == [
        {"name": "features.py", "size": 6},
        {"name": "sets/<b>.py", "size": 2},
    ]
    assert (found["refs"], found["commit"]) == ([], None)


def test_of_many_files_the_first_are_named_and_of_a_long_name_the_end(engineer):
    files = {f"{'f' * 200}{n:04}.py": b"" for n in range(MAX_LISTED + 5)}

    archive = look(engineer, source=upload(engineer, files)).json()["archive"]

    assert archive["count"] == MAX_LISTED + 5
    assert len(archive["files"]) == MAX_LISTED
    assert archive["files"][0]["name"].endswith("ff0000.py")
    assert max(len(each["name"]) for each in archive["files"]) == 120


def test_a_folder_that_an_archive_does_not_have_is_told_before_it_is_sent(engineer):
    source = upload(engineer, {"sets/a.py": b"x"})

    assert look(engineer, source=source, path="sets").status_code == 200
    assert look(engineer, source=source, path="nets").json()["field"] == "path"


# --- what was sent before -------------------------------------------------------------------------


def test_the_same_commit_and_folder_of_ones_own_is_told(engineer, make_submission):
    told = {"commit": HEAD, "source_url": GIT, "system": "feature_set"}
    make_submission("same-1", **told, source_path=".")
    make_submission("folder-1", **told, source_path="sets/a")
    make_submission("kind-1", **(told | {"system": "model_structure"}), source_path=".")
    make_submission("replay-1", **told, source_path=".", replay_of="same-1/i5")
    make_submission("theirs-1", **told, source_path=".", submitted_by="other")

    found = look(engineer).json()

    assert [each["submission_id"] for each in found["equal"]] == ["same-1"]
    assert found["equal"][0] == {
        "submission_id": "same-1",
        "submitted_by": "engineer",
        "status": "running",
        "created_at": NOW.isoformat(),
        "by": "commit",
    }
    assert found["compared"] == 4, "his own"


def test_an_admin_learns_of_everybodys(login, make_submission):
    told = {"commit": HEAD, "source_path": ".", "system": "feature_set"}
    make_submission("theirs-1", **told, submitted_by="other")

    found = look(login("chief", "admin")).json()

    assert [each["submitted_by"] for each in found["equal"]] == ["other"]


def test_the_same_content_is_told_whatever_it_came_as(engineer, make_submission):
    source = upload(engineer, {"a.py": b"x", "b.py": b"y"})
    sha256 = look(engineer, source=source).json()["archive"]["content_sha256"]
    make_submission("git-1", content_sha256=sha256, commit=OLD, system="feature_set")
    other = upload(engineer, {"b.py": b"y", "a.py": b"x"})

    (same,) = look(engineer, source=other).json()["equal"]

    assert other != source
    assert (same["submission_id"], same["by"]) == ("git-1", "content")
