"""The pages with the same stores in memory, and the same users, as the API."""

from __future__ import annotations

import pytest

from fakes.apps import share_app
from fakes.pools import FakePools
from fakes.sending import FakeRuns
from touchstone.cache import KeptBytes
from touchstone.core.names import build_console_key
from touchstone.pages.app import build_app
from touchstone.pages.open_pages import KEPT_BYTES, OpenPages, get_open_pages
from touchstone.pages.tabs import get_find_named
from touchstone.ui.routes.fleet import get_pools
from touchstone.ui.routes.sending import get_sender
from touchstone_agent.protocol.messages import AttemptRef


@pytest.fixture
def named():
    """Return what runs' confs name as their submissions, by run id."""
    return {}


@pytest.fixture
def pools():
    return FakePools()


@pytest.fixture
def runs():
    """Return the runs of the DAG that pages have started."""
    return FakeRuns()


@pytest.fixture
def bare_app():
    """Return the application, none of whose dependencies is replaced."""
    return share_app(build_app)


@pytest.fixture
def app(bare_app, overrides, named, pools, runs):
    app = bare_app
    app.dependency_overrides |= overrides
    app.dependency_overrides[get_find_named] = lambda: named.get
    app.dependency_overrides[get_pools] = lambda: pools
    app.dependency_overrides[get_sender] = runs.build_sender
    # Each test has its own, in which nothing is new enough.
    open_pages = OpenPages(KeptBytes(KEPT_BYTES, seconds=0))
    app.dependency_overrides[get_open_pages] = lambda: open_pages
    return app


@pytest.fixture
def admin(login):
    return login("chief", "admin")


@pytest.fixture
def console(objects, settings, make_submission, make_task):
    """A function that lets a training print more; it returns the key of the new piece."""
    make_submission()
    make_task()
    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
    printed = []

    def print_more(text):
        key = build_console_key(ref, sum(map(len, printed)))
        data = text if isinstance(text, bytes) else text.encode()
        objects.put_new(settings.logs_bucket, key, data)
        printed.append(data)
        return key

    return print_more
