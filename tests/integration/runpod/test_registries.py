"""A private image in a pod: its login is at RunPod for as long as the pod needs it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from fakes.registries import build_connection
from fakes.renting import Office
from touchstone.hooks.runpod.errors import Ambiguous, PodRejected
from touchstone.services.pods.reaper import reap
from touchstone.services.pods.registries import find_registry
from touchstone.triggers.pods.driver import PodDriver
from touchstone_agent.protocol.errors import PermanentError

from .conftest import World
from .rented import list_alive, open_office
from .test_driver import wait_record

pytestmark = pytest.mark.integration

CANARY = "canary-of-the-registry"
IMAGE = f"reg.example/pod:3@sha256:{'0' * 64}"


@pytest.fixture
def office(world: World, ministack: str, monkeypatch: pytest.MonkeyPatch) -> Office:
    """An installation with the login of a registry."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_IMAGES", build_connection(host="reg.example", login="me", password=CANARY)
    )
    return open_office(world, ministack, registry_conn_ids=("images",))


class Shaky:
    """An account whose answers about logins are lost, or odd."""

    def __init__(self, api: Any, **answers: BaseException) -> None:
        self._api = api
        self._answers = answers
        self.created = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def create_registry(self, *arguments: str) -> str:
        self.created += 1
        if "before" in self._answers:
            raise self._answers["before"]
        made: str = await self._api.create_registry(*arguments)
        if (lost := self._answers.pop("after", None)) is not None:
            raise lost
        return made


async def list_ours(context: Any) -> list[str]:
    prefix = f"touchstone-{context.settings.env}-"
    return [name for _, name in await context.api.list_registries() if name.startswith(prefix)]


def test_a_pod_has_the_login_of_its_image_and_the_reaper_takes_it_away(
    office: Office, world: World
) -> None:
    key = office.submit("until=never", image_pod=IMAGE)

    async def run() -> None:
        async with office.work() as context:
            foreign = await context.api.create_registry("somebody's", "them", "theirs")
            fence = await asyncio.to_thread(office.claim, key)
            driver = PodDriver(context, key, fence)
            driving = asyncio.create_task(driver.run())
            record = await wait_record(
                office, key, lambda found: bool(found.newest.pod and found.newest.pod.id)
            )
            name = record.newest.container
            assert await list_ours(context) == [name]
            [pod] = [each for each in world.admin.list_pods() if each["name"] == name]
            ids = {called: each for each, called in await context.api.list_registries()}
            assert pod["registry"] == ids[name]
            # While the pod is there its login stays.
            await reap(context)
            assert await list_ours(context) == [name]
            driver.stop()
            await driving
            assert list_alive(world, office) == []
            await reap(context)
            assert await list_ours(context) == []
            assert foreign in {each for each, _ in await context.api.list_registries()}
            assert CANARY not in json.dumps(await context.read(key), default=str)

    asyncio.run(run())


def test_an_answer_that_was_lost_leaves_one_login(office: Office) -> None:
    async def run() -> None:
        async with office.work() as context:
            shaky = Shaky(context.api, after=Ambiguous("no answer"))
            at_it = replace(context, api=shaky)
            name = f"touchstone-{office.settings.env}-s-i5-1-1"
            found = await find_registry(at_it, name=name, image=IMAGE)
            assert found == await find_registry(at_it, name=name, image=IMAGE)
            assert (shaky.created, await list_ours(context)) == (1, [name])
            # There is no such task: nobody needs it.
            await reap(context)
            assert await list_ours(context) == []

    asyncio.run(run())


def test_a_refusal_that_repeats_what_it_was_sent_is_told_without_it(office: Office) -> None:
    async def run() -> None:
        async with office.work() as context:
            shaky = Shaky(context.api, before=PodRejected(f"422 password {CANARY} is bad"))
            with pytest.raises(PermanentError) as refused:
                await find_registry(replace(context, api=shaky), name="n", image=IMAGE)
            assert "refuses the login of connection 'images'" in str(refused.value)
            assert CANARY not in str(refused.value)

    asyncio.run(run())


@pytest.mark.parametrize("image", ["team/pod:3", "reg.example/pod:3", IMAGE.replace("reg", "free")])
def test_an_image_of_no_such_registry_needs_no_login(office: Office, image: str) -> None:
    async def run() -> None:
        async with office.work() as context:
            assert await find_registry(context, name="n", image=image) is None

    asyncio.run(run())


def test_what_an_admin_has_left_at_runpod_comes_first(office: Office) -> None:
    async def run() -> None:
        async with office.work() as context:
            runpod = context.settings.runpod.model_copy(update={"registry_id": "cra1"})
            settings = context.settings.model_copy(update={"runpod": runpod})
            at_it = replace(context, settings=settings)
            assert await find_registry(at_it, name="n", image=IMAGE) == "cra1"

    asyncio.run(run())
