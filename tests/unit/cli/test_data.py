"""The commands about data sets, against the real API."""

from __future__ import annotations

import json

import pytest

from fakes.data_sets import write_folder

SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


@pytest.fixture
def folder(tmp_path, run):
    return write_folder(tmp_path / "set")


def test_a_data_set_is_added_once_and_then_listed_and_shown(run, folder):
    assert run("data", "add", str(folder)).output == "eurusd-hourly 2018-02: added\n"
    assert run("data", "add", str(folder)).output == "eurusd-hourly 2018-02: as it was\n"
    write_folder(folder, version="2018-03")
    run("data", "add", str(folder))

    listed = run("data", "list").output
    assert "sp500" in listed
    assert "EURUSD, hourly" in listed
    shown = run("data", "show", "eurusd-hourly").output
    assert "6240" in shown
    assert "2018-02" in shown
    versions = json.loads(run("data", "show", "eurusd-hourly", "--json").output)["versions"]
    assert {each["version"] for each in versions} == {"2018-02", "2018-03"}
    assert len(json.loads(run("data", "list", "--json").output)["data_sets"]) == 2


def test_what_is_wrong_is_told_before_anything_is_sent(run, folder, airflow):
    (folder / "eurusd.csv").write_text("other")
    assert run("data", "add", str(folder)).exit_code == 2
    assert "sha256: eurusd.csv has" in run("data", "add", str(folder)).output
    write_folder(folder, frequency='"1 hour"')
    assert "frequency: '1 hour' is not a whole number" in run("data", "add", str(folder)).output
    assert run("data", "add", str(folder / "none")).exit_code == 2
    assert airflow.objects.objects == {}


def test_what_the_installation_refuses_is_a_mistake_of_the_users(run, folder):
    run("data", "add", str(folder))
    write_folder(folder, title='"Other"')

    done = run("data", "add", str(folder))

    assert done.exit_code != 0
    assert "is there already with another content" in done.output


def test_an_engineer_may_not_add_and_may_look(run, folder, airflow):
    done = run("data", "add", str(folder), "--as", "engineer")

    assert done.exit_code == 1
    assert "admins only" in done.output
    assert airflow.objects.objects == {}
    assert run("data", "list", "--as", "engineer").exit_code == 0


def test_a_data_set_that_is_not_there_is_told_with_those_that_are(run, folder):
    run("data", "add", str(folder))

    assert "there are eurusd-hourly, sp500" in run("data", "show", "gold").output
    assert run("data", "show", "../x").exit_code == 2


def test_an_event_shows_the_version_that_it_is_on(run, folder, tmp_path):
    run("data", "add", str(folder))
    file = tmp_path / "winter.toml"
    file.write_text(SMALL + "[data]\nname = 'eurusd-hourly'\n")

    assert run("event", "apply", str(file)).output == "winter: applied\n"
    assert run("event", "apply", str(file)).output == "winter: as it was\n"

    assert "eurusd-hourly 2018-02" in run("event", "show", "winter").output
    assert "2017-12-01 to last" in run("event", "show", "winter").output


def test_an_event_of_unknown_data_is_refused_with_those_that_are(run, folder, tmp_path):
    run("data", "add", str(folder))
    file = tmp_path / "winter.toml"
    file.write_text(SMALL + "[data]\nname = 'gold'\n")

    done = run("event", "apply", str(file))

    assert done.exit_code == 2
    assert "data: there is no data set 'gold'; there are eurusd-hourly, sp500" in done.output


def test_of_a_private_data_set_the_file_is_not_sent(run, folder, airflow):
    done = run("data", "add", str(folder), "--private")

    assert done.output.startswith("eurusd-hourly 2018-02: added\ndigest: ")
    assert airflow.objects.objects == {}
    assert run("data", "add", str(folder), "--private").output.startswith(
        "eurusd-hourly 2018-02: as it was"
    )
    assert "(private)" in run("data", "list").output
    assert "stays at the servers" in run("data", "show", "eurusd-hourly").output
    (folder / "eurusd.csv").write_text("other")
    assert "sha256: eurusd.csv has" in run("data", "add", str(folder), "--private").output
