"""
The pages, in a real browser inside the real Airflow.

Pictures of all of them go into the folder that ``TOUCHSTONE_SCREENSHOTS`` names.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from system.browsing import SECOND, Visitor, open_browser
from system.installation import EXAMPLES, SLOW
from touchstone.client.packing import pack_folder
from waiting import wait_for


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


@pytest.fixture
def visit(browser, installation):
    """Return a function that logs a user in; nothing of theirs may break the pages' policy."""
    visitors = []

    def log_in(user, **options):
        url, password = installation.stack["urls"]["airflow"], installation.passwords[user]
        visitors.append(Visitor(browser, url, user, password, **options))
        return visitors[-1]

    yield log_in
    for visitor in visitors:
        visitor.context.close()
        assert visitor.refused == []


@pytest.fixture(scope="module")
def accepted(installation):
    """A submission that was validated and waits to be scheduled."""
    submission_id = installation.submit(EXAMPLES / "momentum")
    installation.wait_for_submission(submission_id, "accepted")
    return submission_id


def test_airflow_knows_the_plugin_and_could_import_it(installation):
    assert installation.airflow.get("/plugins/importErrors").json()["total_entries"] == 0
    plugins = installation.airflow.get("/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "touchstone"]
    assert {view["destination"] for view in ours["external_views"]} == {
        "nav",
        "dag_run",
        "task_instance",
    }


def test_a_user_finds_his_submission_from_airflows_navigation(visit, accepted):
    engineer = visit("engineer")

    engineer.page.get_by_role("link", name="Touchstone").first.click()
    frame = engineer.page.frame_locator("iframe")
    frame.get_by_role("link", name=accepted).click()

    expect(frame.get_by_role("heading", name=accepted)).to_be_visible()
    expect(frame.locator(".chip").first).to_have_text("accepted")
    expect(frame.get_by_role("link", name="Fleet")).to_have_count(0)
    engineer.take_picture("inside-airflow")
    assert engineer.open("fleet") == 403


def test_airflows_home_tells_how_much_waits_and_runs(visit):
    engineer = visit("engineer")
    faults = []
    engineer.page.on("pageerror", lambda error: faults.append(str(error)))

    engineer.page.goto(engineer.url)

    shown = engineer.page.get_by_role("region", name="Touchstone")
    expect(shown.get_by_text("servers alive")).to_be_visible()
    expect(shown.get_by_text("1 of 1")).to_be_visible()
    engineer.take_picture("airflow-home")
    shown.get_by_role("link", name="Touchstone").click()
    frame = engineer.page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Submissions")).to_be_visible()
    assert faults == []


def test_a_runs_tab_leads_to_its_submission(visit, accepted):
    admin = visit("admin")

    admin.page.goto(f"{admin.url}/dags/touchstone/runs/{accepted}/plugin/touchstone-run")

    frame = admin.page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name=accepted)).to_be_visible()


def test_a_page_follows_a_training_by_itself_and_ends_it(visit, installation):
    engineer = visit("engineer")
    submission_id = installation.submit(SLOW, "--intervals", "15")
    try:
        installation.wait_for_submission(submission_id, "validating", "queued", "running")
        engineer.open(f"submissions/{submission_id}")
        page = engineer.page
        page.evaluate("window.isTheSamePage = true")

        expect(page.locator("h1 .chip")).to_have_text("running")
        expect(page.locator("tr", has_text="i15").locator(".chip")).to_have_text("running")
        assert page.evaluate("window.isTheSamePage"), "it was not loaded anew"
        engineer.take_picture("running")

        engineer.open(f"submissions/{submission_id}/tasks/i15/log")
        page.evaluate("window.isTheSamePage = true")
        lines = page.locator(".console li")
        expect(lines.first).to_be_visible()
        expect(lines.nth(lines.count() + 1)).to_be_attached()
        assert page.evaluate("window.isTheSamePage"), "what is new was put behind what was there"

        engineer.open(f"submissions/{submission_id}")
        page.get_by_text("Cancel", exact=True).click()
        page.get_by_role("button", name=f"Cancel {submission_id}").click()
        expect(page.locator("h1 .chip")).to_have_text("cancelled")
        assert installation.submission(submission_id)["status"] == "cancelled"
    finally:
        installation.cancel_what_goes_on(submission_id)


def test_a_judged_submission_is_shown_with_its_verdict_and_charts(visit, installation, tmp_path):
    """Its picture is the README's."""
    file = tmp_path / "gallery.toml"
    file.write_text('schema_version = 1\ntitle = "Spring"\n')
    installation.ask("event", "apply", str(file))
    options = ("--intervals", "1,5", "--config", "fast.toml", "--event", "gallery")
    baseline = installation.submit(EXAMPLES / "momentum", *options)
    installation.wait_for_submission(baseline, "success")
    installation.ask("event", "baseline", "gallery", baseline)
    challenger = installation.submit(EXAMPLES / "volatility", *options)
    installation.wait_for_submission(challenger, "success")
    engineer = visit("engineer", viewport={"width": 1280, "height": 1180})
    page = engineer.page

    engineer.open(f"submissions/{challenger}")

    expect(page.get_by_text(f"baseline {baseline}").first).to_be_visible()
    charts = page.locator("svg[data-points]")
    expect(charts).to_have_count(4)
    charts.first.hover()
    expect(page.locator(".readout")).to_contain_text("this training")
    engineer.take_picture("judged", full_page=False)
    page.mouse.move(0, 0)
    expect(page.locator(".readout")).to_have_count(0)
    charts.nth(1).press("ArrowRight")
    charts.nth(1).press("ArrowRight")
    expect(page.locator(".readout")).to_be_visible()
    page.get_by_role("link", name="interval 5").click()
    expect(page.get_by_role("link", name="Figures as JSON")).to_have_attribute(
        "href", f"/touchstone/pages/submissions/{challenger}/tasks/i5/charts.json"
    )
    engineer.open(f"compare?submission={challenger}&submission={baseline}")
    expect(page.locator("svg[data-points]").first).to_have_attribute(
        "aria-label", re.compile(f"{challenger} from .*; {baseline} from ")
    )
    engineer.take_picture("compared-charts")


def test_the_log_of_a_validation_is_there(visit, accepted):
    engineer = visit("engineer")

    assert engineer.open(f"submissions/{accepted}/tasks/validation/log") == 200

    expect(engineer.page.locator(".console li").first).to_be_visible()
    engineer.take_picture("log")


def test_a_module_is_submitted_and_scheduled_by_forms(visit, installation):
    engineer = visit("engineer")
    page = engineer.page
    archive = pack_folder(EXAMPLES / "momentum", 1024**2)
    engineer.open("new")
    page.get_by_label("Or an archive").set_input_files(
        {"name": "momentum.tar.gz", "mimeType": "application/gzip", "buffer": archive}
    )
    page.get_by_label("Folder").fill("../momentum")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#path-error")).to_be_visible()
    expect(page.locator(".banner code")).to_have_text(hashlib.sha256(archive).hexdigest())
    engineer.take_picture("new-wrong")
    page.get_by_label("Folder").fill(".")
    page.get_by_role("button", name="Submit").dblclick()
    page.wait_for_url("**/submissions/*")
    submission_id = page.url.rpartition("/")[2]
    try:
        # Its page goes on from before there is a record until it may be scheduled.
        page.get_by_role("link", name="Schedule", exact=True).click()
        assert installation.submission(submission_id)["submitted_by"] == "engineer"

        page.get_by_label("Prediction intervals").fill("5")
        page.get_by_label("Config File").fill("fast.toml")
        page.get_by_role("button", name="Plan").click()
        expect(page.locator(".plan tbody tr")).to_contain_text("i5")
        engineer.take_picture("plan")
        page.get_by_label("Seed", exact=True).fill("7")
        page.get_by_role("button", name="Schedule 1 training").dblclick()
        page.wait_for_url("**/submissions/*")

        installation.wait_for_submission(submission_id, "queued", "running", "success")
        found = installation.submission(submission_id)
        assert found["run_ids"] == [submission_id, f"{submission_id}--2"]
        assert found["schedule"]["seed"] == 0, "what was planned counts"
        assert found["schedule"]["intervals"] == [5]
    finally:
        installation.cancel_what_goes_on(submission_id)


def test_a_source_is_looked_at_before_it_is_sent(visit, tmp_path):
    engineer = visit("engineer")
    page = engineer.page
    archive = pack_folder(EXAMPLES / "momentum", 1024**2)
    digest = hashlib.sha256(archive).hexdigest()
    engineer.open("new")
    # A file that is dropped is one that is chosen.
    transfer = page.evaluate_handle(
        """(bytes) => {
          const transfer = new DataTransfer();
          const type = "application/gzip";
          transfer.items.add(new File([new Uint8Array(bytes)], "momentum.tar.gz", { type }));
          return transfer;
        }""",
        list(archive),
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#archive-chosen")).to_contain_text(digest)
    page.get_by_role("button", name="Look at the source").click()
    expect(page.locator("#report")).to_contain_text(digest)
    expect(page.locator("#report .files")).to_contain_text("features.py")
    engineer.take_picture("new-looked")

    repository = tmp_path / "module"
    shutil.copytree(EXAMPLES / "momentum", repository)
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "--quiet", "--message=first"],
    ):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    engineer.open("new")
    # Somebody else's look, or one of another tab, is waited for.
    page.route("**/new/check", lambda route: route.fulfill(status=429), times=2)
    page.get_by_label("Git URL").fill(str(repository))
    # The script looks by itself when a field was left.
    page.get_by_label("Git ref").fill("none")
    page.get_by_label("Folder").focus()
    expect(page.locator("#ref-error")).to_be_visible()
    page.get_by_label("Git ref").fill("main")
    page.get_by_label("Folder").focus()
    expect(page.locator("#ref-error")).to_have_count(0)
    expect(page.locator("#refs option")).to_have_count(1)


def test_ticked_submissions_are_retracted_after_that_was_told(visit, installation, accepted):
    engineer = visit("engineer")
    page = engineer.page
    engineer.open("tasks?submission=" + accepted)
    expect(page.get_by_role("link", name=accepted, exact=True).first).to_be_visible()
    engineer.take_picture("tasks")
    ids = [installation.submit(EXAMPLES / "momentum") for _ in range(2)]
    for each in ids:
        installation.wait_for_submission(each, "accepted", "validating")
    engineer.open("submissions")
    for each in ids:
        page.get_by_label(f"Choose {each}").check()
    page.get_by_role("button", name="Retract", exact=True).click()
    expect(page.get_by_role("heading", name="Retract 2 submissions")).to_be_visible()
    engineer.take_picture("retract")
    page.get_by_role("button", name="Retract 2", exact=True).click()
    expect(page.get_by_text("2 done")).to_be_visible()
    for each in ids:
        installation.wait_for_submission(each, "retracted")


def test_an_admin_edits_and_drains_a_server_that_tells_what_it_does(visit):
    admin = visit("admin")
    page = admin.page
    admin.open("fleet")
    page.get_by_role("link", name="Drain local").click()
    slots = page.get_by_label("Trainings at a time").input_value()
    validations = page.get_by_label("Validations at a time").input_value()
    page.get_by_label("Validations at a time").fill(str(int(validations) + 1))
    page.get_by_role("button", name="Set slots").click()
    expect(page.get_by_label("Validations at a time")).to_have_value(str(int(validations) + 1))
    page.get_by_label("Validations at a time").fill(validations)
    page.get_by_role("button", name="Set slots").click()
    expect(page.get_by_label("Validations at a time")).to_have_value(validations)
    admin.take_picture("server")
    page.get_by_role("button", name="Drain local").click()
    try:
        expect(page.get_by_text(f"gives it {slots} slots and {validations}")).to_be_visible()
    finally:
        page.get_by_role("button", name="Attach local").click()
    expect(page.get_by_label("Trainings at a time")).to_have_value(slots)


def test_an_admin_moves_a_task_to_the_front(visit, installation):
    submission_id = installation.submit(EXAMPLES / "momentum")
    installation.wait_for_submission(submission_id, "accepted")
    installation.ask("pause", "--as", "admin")
    try:
        installation.ask("schedule", submission_id, "--intervals", "1,5", "--config", "fast.toml")
        admin = visit("admin")
        admin.open("queue")
        # Which of the two is first is the dispatcher's to say.
        rows = admin.page.locator("tbody tr", has_text=submission_id)
        expect(rows).to_have_count(2)
        last = rows.nth(1).locator("td").nth(1).inner_text()

        rows.nth(1).get_by_role("button", name="before all others").click()

        moved = rows.nth(0)
        expect(moved.locator("td").nth(1)).to_have_text(last)
        expect(moved.locator("td").nth(3)).to_have_text("1")
        admin.take_picture("queue-moved")
        engineer = visit("engineer")
        engineer.open("queue")
        expect(engineer.page.get_by_role("button", name="before all others")).to_have_count(0)
    finally:
        installation.ask("resume", "--as", "admin")
        installation.cancel_what_goes_on(submission_id)


def test_another_users_submission_is_not_there_and_admins_compare_it(visit, installation, accepted):
    theirs = installation.submit(EXAMPLES / "momentum", "--as", "admin")
    try:
        engineer = visit("engineer")

        assert engineer.open(f"submissions/{theirs}") == 404
        assert "Not found" in engineer.page.inner_text("main")
        engineer.open("submissions")
        assert theirs not in engineer.page.inner_text("main")

        admin = visit("admin")
        admin.open("submissions")
        for each in (accepted, theirs):
            admin.page.get_by_label(f"Choose {each}").check()
        admin.page.get_by_role("button", name="Compare").click()
        expect(admin.page.get_by_role("heading", name="Comparison")).to_be_visible()
        expect(admin.page.get_by_role("link", name=theirs)).to_be_visible()
        admin.take_picture("compared")
        installation.ask("retract", theirs, "--as", "admin")
        admin.open(f"submissions/{theirs}/audit")
        row = admin.page.locator("tr", has_text="retracted").first
        expect(row.locator("td").nth(2)).to_have_text("CLI")
    finally:
        installation.ask("cancel", theirs, "--as", "admin")


PLACES = [
    *("submissions", "new", "schedule", "tasks", "queue", "events", "events/default"),
    "fleet/servers/local",
    *("costs", "fleet", "audit", "compare", "api"),
]
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 800}},
}


@pytest.mark.parametrize(
    "look", [pytest.param("light", marks=pytest.mark.campaign), "dark", "narrow"]
)
def test_no_page_has_a_serious_fault_of_accessibility(visit, accepted, look):
    admin = visit("admin", **LOOKS[look])
    found = {}

    one = f"submissions/{accepted}"
    for path in [*PLACES, one, f"{one}/audit", f"{one}/tasks/validation/log"]:
        assert admin.open(path) == 200, path
        admin.take_picture(f"{look}-{path.replace('/', '-').replace(accepted, 'one')}")
        faults = Axe().run(admin.page).response["violations"]
        found[path] = [
            (fault["id"], fault["nodes"][0]["html"])
            for fault in faults
            if fault["impact"] in {"serious", "critical"}
        ]
        is_too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not admin.page.evaluate(is_too_wide), f"{path} scrolls sideways"

    assert found == {path: [] for path in found}


def test_a_form_from_elsewhere_changes_nothing_though_the_session_comes_along(visit, installation):
    admin = visit("admin")

    answer = admin.context.request.post(
        f"{admin.url}/touchstone/pages/fleet/pause", headers={"Origin": "https://evil.example"}
    )

    assert answer.status == 403
    assert "paused" not in installation.run("status").stdout


def test_a_page_recovers_from_an_api_server_that_dies(visit, installation):
    admin = visit("admin")
    admin.open("queue")
    admin.page.evaluate("window.isTheSamePage = true")

    old = installation.kill("airflow-api")
    while not admin.page.locator("#silence").is_visible():
        admin.page.wait_for_timeout(SECOND / 4)
        if installation.part("airflow-api").get("pid") not in {None, old}:
            # A fast machine has it back before the page has asked twice.
            old = installation.kill("airflow-api")
    installation.wait_until_restarted("airflow-api", old)
    expect(admin.page.locator("#silence")).to_be_hidden()

    assert admin.page.evaluate("window.isTheSamePage")
    assert wait_for("the page is alive", lambda: admin.open("queue") == 200)
