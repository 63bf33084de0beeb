"""A real browser, and users who are logged in with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

SECOND = 1_000
PATIENCE = 240 * SECOND
"""For what a busy machine takes long to do."""

SIMPLE = {"address": "/auth/login", "button": "Sign in"}
"""The login page of Airflow's simple auth manager."""
FAB = {"address": "/auth/login/", "button": "Sign In"}
"""That of the one of FAB."""

expect.set_options(timeout=PATIENCE)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Run Debian's chromium until the block ends; without it the test is skipped, but not on CI."""
    executable = shutil.which("chromium")
    if executable is None:
        if os.environ.get("TOUCHSTONE_REQUIRE_ALL"):
            pytest.fail("this machine must have chromium")
        pytest.skip("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox; what it opens is ours.
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """
    A user of Airflow, logged in with a browser.

    :param url: Airflow's address.
    :param login: Which login page that has.
    :ivar refused: What the browser did not run or load, for our pages' policy.
    """

    def __init__(
        self,
        browser: Browser,
        url: str,
        user: str,
        password: str,
        *,
        login: Mapping[str, str] = SIMPLE,
        **options: object,
    ) -> None:
        self.url = url
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.refused: list[str] = []
        self.page.on("console", self._note)
        self.page.goto(f"{self.url}{login['address']}")
        self.page.locator("input[name=username]").fill(user)
        self.page.locator("input[name=password]").fill(password)
        self.page.get_by_role("button", name=login["button"]).click()
        self.page.wait_for_url(lambda url: "/login" not in url)

    def _note(self, message):
        if "Content Security Policy" in message.text and "/touchstone/" in str(message.location):
            self.refused.append(message.text)

    def open(self, path: str) -> int:
        """Open one of our pages; return its status."""
        return self.page.goto(f"{self.url}/touchstone/pages/{path}").status

    def take_picture(self, name: str, *, full_page: bool = True) -> None:
        """Put a picture into the folder that ``TOUCHSTONE_SCREENSHOTS`` names, if it does."""
        folder = os.environ.get("TOUCHSTONE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{folder}/{name}.png", full_page=full_page)
