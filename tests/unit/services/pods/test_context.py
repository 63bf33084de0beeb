"""The catalogue is asked once for all who order a pod at the same moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from touchstone.hooks.runpod.errors import ServiceUnavailable
from touchstone.services.pods.context import PodContext
from touchstone.settings import Settings

CALLERS = 40


class FakeApi:
    """A catalogue that is counted and may fail."""

    def __init__(self, error=None):
        self.error, self.asked = error, 0

    async def list_offers(self):
        self.asked += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return ()

    async def list_cpus(self):
        return ()


def make_desk(api):
    parts = dict.fromkeys(("lister", "records", "objects", "ledger"), SimpleNamespace())
    return PodContext(api=api, settings=Settings(), secret=b"0" * 32, api_url="", **parts)


@pytest.mark.parametrize("error", [None, ServiceUnavailable("down")], ids=["answer", "failure"])
async def test_forty_callers_make_one_request(error):
    """One failing read of 0.05 s took two seconds for forty callers, one after another."""
    api = FakeApi(error)
    desk = make_desk(api)
    asking = (desk.read_market() for _ in range(CALLERS))

    told = await asyncio.gather(*asking, return_exceptions=True)

    assert api.asked == 1
    assert len({id(each) for each in told}) == 1
    assert (told[0] is error) == (error is not None)


async def test_the_catalogue_is_not_asked_again_for_the_next_order():
    api = FakeApi()
    desk = make_desk(api)

    assert await desk.read_market() is await desk.read_market()
    assert api.asked == 1
