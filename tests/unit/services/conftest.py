"""Records in memory, and a clock that is moved by hand."""

from __future__ import annotations

import pytest

from fakes.clock import Clock
from fakes.stores import FakeRecordStore
from touchstone.settings import Settings


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def settings():
    return Settings(env="dev", lease_seconds=900)


@pytest.fixture
def records(settings):
    return FakeRecordStore(settings)
