"""What holds for all tests."""

from __future__ import annotations

import os
import zlib

import pytest
from hypothesis import HealthCheck, settings

from campaigns import ALL_CAMPAIGNS, SEED

REQUIRE_ALL = os.environ.get("TOUCHSTONE_REQUIRE_ALL") == "1"
"""Set where every part is there, so that a skip is a mistake and not a missing part."""


settings.register_profile("touchstone", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("touchstone")
# A busy machine is no failure: nothing here is asserted of the time that an example takes.

SAMPLE = 8


def pytest_collection_modifyitems(config, items):
    """Keep one in a few tests of a campaign: always the same ones for the same seed."""
    if ALL_CAMPAIGNS:
        return
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_left_out(item):
    """A campaign says itself how small a part of it is a sample: ``campaign(sample=16)``."""
    marker = item.get_closest_marker("campaign")
    if marker is None:
        return False
    sample = marker.kwargs.get("sample", SAMPLE)
    # Without the group that pytest-xdist appends.
    name = item.nodeid.partition("@")[0]
    return bool(zlib.crc32(f"{SEED} {name}".encode()) % sample)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = call.excinfo.value if call.excinfo else "skipped"
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where nothing may be: {reason}"
    return report


def pytest_runtest_logreport(report):
    """Tell of a failure at once where a run may be ended from outside before its last line."""
    if report.failed and os.environ.get("CI") == "true":
        print(f"\n{report.when} of {report.nodeid}:\n{report.longreprtext}", flush=True)
