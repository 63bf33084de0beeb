"""What is tried with the real RunPod, tried here first."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from tests.integration.runpod.conftest import SshClient, World
from tests.integration.runpod.rented import open_rented_world

from fakes.renting import build_settings
from real.one_pod import list_mine, open_context, visit_pod
from touchstone.hooks.runpod.api import Account
from touchstone.triggers.pods.failures import PodFailed

pytestmark = pytest.mark.integration

CAP = Decimal("0.50")
MICRO_DOLLAR = Decimal("0.000001")
WANTED = build_settings("real", runpod={"image": "trainer"}).runpod


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, ssh: SshClient) -> Iterator[World]:
    with open_rented_world(tmp_path_factory.mktemp("visit"), ssh) as world:
        yield world


async def test_a_visit_brings_back_what_its_command_said_and_leaves_nothing(world: World) -> None:
    account = Account(api_key="rpa_test", url=world.emulator.url)
    async with open_context(account, WANTED) as context:
        visit = await visit_pod(context, cap=CAP)
        assert await list_mine(context) == []
    assert visit.exit_code == 7
    assert "NVIDIA L4" in visit.console
    [span] = world.admin.get_ledger()["spans"][-1:]
    assert span["pod_id"] == visit.pod.id
    assert Decimal(span["usd"]) <= visit.usd + MICRO_DOLLAR, "the ledger's digits end there"


async def test_nothing_is_rented_that_might_cost_more_than_the_cap(world: World) -> None:
    account = Account(api_key="rpa_test", url=world.emulator.url)
    before = len(world.admin.get_ledger()["spans"])
    async with open_context(account, WANTED) as context:
        with pytest.raises(AssertionError, match="below the cap"):
            await visit_pod(context, cap=Decimal("0.0001"))
    assert len(world.admin.get_ledger()["spans"]) == before


async def test_a_visit_that_fails_leaves_nothing_either(world: World) -> None:
    account = Account(api_key="rpa_test", url=world.emulator.url)
    wanted = WANTED.model_copy(update={"min_driver": 9999})
    async with open_context(account, wanted) as context:
        with pytest.raises(PodFailed, match="driver"):
            await visit_pod(context, cap=CAP)
        assert await list_mine(context) == []
