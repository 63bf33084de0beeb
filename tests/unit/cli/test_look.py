"""The command ``look``, against the real API: a source before it is submitted."""

from __future__ import annotations

import json

import pytest

GIT = "https://host.example/owner/module.git"
HEAD, OLD = "1" * 40, "2" * 40
LISTED = f"""ref: refs/heads/main\tHEAD
{HEAD}\tHEAD
{HEAD}\trefs/heads/main
{OLD}\trefs/tags/v1
"""


@pytest.fixture(autouse=True)
def host(airflow):
    airflow.settings = airflow.settings.model_copy(update={"git_hosts": ("host.example",)})
    airflow.listing = LISTED


@pytest.fixture
def module(tmp_path):
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "features.py").write_text("def build_features(data):\n    return data\n")
    return folder


def test_a_repository_tells_its_commit_and_its_refs(run, airflow):
    airflow.add_submission("s-1", system="feature_set", commit=OLD, source_url=GIT)

    lines = run("look", GIT, "--ref", "v1").stdout.splitlines()

    assert lines[:4] == [
        f"commit {OLD}",
        "2 branches and tags:",
        f"  branch main at {HEAD[:12]}",
        f"  tag v1 at {OLD[:12]}",
    ]
    assert lines[4] == "the same was sent before:"
    assert lines[5].startswith("  s-1 accepted, ")
    assert lines[5].endswith(" by engineer, same commit")
    assert lines[6:] == ["schedules that you have left:", "  default: no limit"]


def test_a_folder_tells_its_files_and_nothing_is_submitted(run, airflow, module):
    done = run("look", str(module))

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("archive ")
    assert lines[2] == "1 file:"
    assert lines[3].startswith("  features.py, ")
    assert airflow.runs == {}


def test_the_document_is_the_answer_as_it_came(run):
    document = json.loads(run("look", GIT, "--json").stdout)

    assert document["commit"] == HEAD
    assert [each["name"] for each in document["refs"]] == ["main", "v1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((GIT, "--ref", "nowhere"), "ref: "),
        (("https://other.example/a/b.git",), "source: "),
        (("nowhere-here",), "source: there is no"),
        (("{module}", "--ref", "main"), "ref: "),
        (("{module}", "--path", "../x"), "path: "),
    ],
)
def test_what_would_be_refused_is_named(run, airflow, module, arguments, told):
    refused = run("look", *(each.format(module=module) for each in arguments))

    assert refused.exit_code == 2, refused.output
    assert told in refused.stderr
    assert airflow.runs == {}
