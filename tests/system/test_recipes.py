"""The recipes of docs/ci.md, run as they are written there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from system.installation import REPOSITORY

TEXT = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
RECIPES = {
    re.search(r"^# (ci\S+)$", body, re.MULTILINE).group(1): (program, body)
    for program, body in re.findall(r"```(bash|python)\n(.*?)```", TEXT, re.DOTALL)
}
COMMAND_LINE = "ci-touchstone-cli.sh"
# The command line says the results as a table, and has the key as the id.
OTHERS = sorted(RECIPES.keys() - {COMMAND_LINE})
SECONDS = 600


@pytest.fixture(scope="module")
def follow(installation, commit):
    """Return a function that runs a recipe as a CI system would, and returns how it ended."""
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            if os.environ.get("TOUCHSTONE_REQUIRE_ALL"):
                pytest.fail(f"this machine must have {tool}")
            pytest.skip(f"NO {tool.upper()} (apt install {tool}): recipes for CI were NOT tested")

    def run(recipe, key, folder, **changes):
        # Nothing else of this machine's: the installation's own folder least of all.
        variables = {
            "PATH": f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}",
            "HOME": str(folder),
            "TOUCHSTONE_URL": installation.stack["urls"]["airflow"],
            "TOUCHSTONE_USER": "engineer",
            "TOUCHSTONE_PASSWORD": installation.passwords["engineer"],
            "SOURCE": f"file://{REPOSITORY}",
            "REF": commit,
            "MODULE": "include/examples/momentum",
            "INTERVALS": "5",
            "CONFIG": "fast.toml",
            "KEY": key,
        }
        program, text = RECIPES[recipe]
        return subprocess.run(
            [program, "-c", text],
            env=variables | changes,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


def make_key():
    return f"ci-{uuid.uuid4().hex[:8]}"


def find_id(done):
    return re.search(r"submissions/(\S+)", done.stdout).group(1)


@pytest.fixture(scope="module")
def jobs(follow, tmp_path_factory):
    """How jobs of all recipes have ended: each twice by one key, and one of a bad module."""
    broken = "include/examples/broken"
    module = next(each for each in sorted((REPOSITORY / broken).iterdir()) if each.is_dir())

    def run(recipe):
        folder, key = tmp_path_factory.mktemp("job"), make_key()
        first = follow(recipe, key, folder)
        results = (folder / "results.json").read_text() if first.returncode == 0 else ""
        again = follow(recipe, key, folder)
        refused = follow(recipe, make_key(), folder, MODULE=f"{broken}/{module.name}")
        return {"first": first, "results": results, "again": again, "refused": refused}

    with ThreadPoolExecutor(len(OTHERS)) as threads:
        return dict(zip(OTHERS, threads.map(run, OTHERS), strict=True))


def test_the_page_has_a_recipe_for_each_way_in():
    assert OTHERS == [
        "ci-airflowctl.sh",
        "ci-touchstone.sh",
        "ci_airflow_client.py",
        "ci_touchstone.py",
    ]


@pytest.mark.parametrize("recipe", OTHERS)
def test_a_job_submits_waits_and_keeps_the_results(jobs, installation, recipe):
    first, again = jobs[recipe]["first"], jobs[recipe]["again"]

    assert first.returncode == 0, first.stdout + first.stderr
    submission_id = find_id(first)
    assert first.stdout.splitlines()[-1].strip() == f"{submission_id}: success"
    (line,) = json.loads(jobs[recipe]["results"])["results"]
    assert (line["task_id"], line["judged"]) == ("i5", "judged")

    assert (again.returncode, find_id(again)) == (0, submission_id), again.stdout + again.stderr
    assert installation.submission(submission_id)["run_ids"] == [submission_id]


@pytest.mark.parametrize("recipe", OTHERS)
def test_a_job_fails_when_its_module_is_refused(jobs, installation, recipe):
    done = jobs[recipe]["refused"]

    assert done.returncode == 1, done.stdout + done.stderr
    submission_id = find_id(done)
    assert installation.submission(submission_id)["reason"] in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{submission_id}: rejected")


@pytest.mark.parametrize("recipe", OTHERS)
def test_a_job_that_may_not_log_in_fails_and_says_so(follow, tmp_path, recipe):
    done = follow(recipe, make_key(), tmp_path, TOUCHSTONE_PASSWORD="wrong")

    assert done.returncode != 0
    assert "submissions/" not in done.stdout
    assert "wrong" not in done.stdout + done.stderr


@pytest.mark.campaign
def test_with_the_command_line_a_job_submits_waits_and_keeps_the_results(follow, tmp_path):
    key = make_key()

    for _ in range(2):
        done = follow(COMMAND_LINE, key, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        results = json.loads((tmp_path / "results.json").read_text())
        assert (results["submission_id"], results["status"]) == (key, "success")
