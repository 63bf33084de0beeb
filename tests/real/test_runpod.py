"""The real RunPod: costs money, and is run by nobody but who asks for it by name."""

from __future__ import annotations

import os
from decimal import Decimal

import pytest

from real.one_pod import BOOT_SECONDS, LOGIN_SECONDS, list_mine, open_context, visit_pod
from touchstone.hooks.runpod.api import Account
from touchstone.settings import RunPodSettings

CAP = Decimal("0.50")
NEEDED = ("RUNPOD_API_KEY", "TOUCHSTONE_RUNPOD_IMAGE")


@pytest.mark.timeout(3600)
async def test_a_pod_is_rented_runs_a_command_and_is_given_back():
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        pytest.skip(f"NOT RUN against the real RunPod: {' and '.join(missing)} not set")
    # Models, image and registry as an installation has them; what it may cost is not theirs to say.
    wanted = RunPodSettings(boot_seconds=BOOT_SECONDS, login_seconds=LOGIN_SECONDS)
    account = Account(api_key=os.environ["RUNPOD_API_KEY"])
    async with open_context(account, wanted) as context:
        visit = await visit_pod(context, cap=CAP)
        assert await list_mine(context) == []
    assert visit.exit_code == 7
    assert "GPU 0" in visit.console
    assert visit.usd <= CAP
