"""Data sets over a real wire: adders that race, and the archive as an agent fetches it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import boto3
import pytest
from botocore.config import Config

from fakes.data_sets import BODY, pack, send
from fakes.tasks import build_spec
from touchstone.core.events import parse_event
from touchstone.services.data_sets import DataKeeper, fetch_data
from touchstone.services.events import EventKeeper
from touchstone.services.starts import grant_inputs
from touchstone.settings import Settings
from touchstone.stack.provision import build_tables
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.adapters.transfer import Transfer, unpack
from touchstone_agent.protocol.errors import ConfigurationError

pytestmark = pytest.mark.integration

EVENT = 'schema_version = 1\ntitle = "Hourly"\n[data]\nname = "eurusd-hourly"\n'


def connect(service, ministack):
    return boto3.client(
        service,
        endpoint_url=ministack,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(max_pool_connections=20, s3={"addressing_style": "path"}),
    )


@pytest.fixture
def settings(ministack, tmp_path):
    env = f"t{uuid.uuid4().hex[:8]}"
    settings = Settings(env=env, events_table=f"events-{env}", data_cache=tmp_path / "cache")
    for table in build_tables(settings):
        if table["TableName"] == settings.events_table:
            connect("dynamodb", ministack).create_table(**table)
    connect("s3", ministack).create_bucket(Bucket=settings.content_bucket)
    return settings


@pytest.fixture
def records(ministack, settings):
    return RecordStore(connect("dynamodb", ministack), settings)


@pytest.fixture
def objects(ministack):
    return ObjectStore(connect("s3", ministack))


@pytest.fixture
def keeper(records, objects, settings):
    return DataKeeper.build(records, objects, settings, lambda: datetime.now(UTC))


def test_of_many_that_add_at_once_one_content_is_there_and_the_others_are_told(keeper, tmp_path):
    archives = [pack(tmp_path / str(n), title=f'"Edition {n % 2}"') for n in range(8)]

    def add(archive):
        try:
            return send(keeper, archive).record.digest
        except ConfigurationError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        results = [*pool.map(add, archives)]

    (kept,) = keeper.store.list_versions("eurusd-hourly")
    assert kept.is_complete
    assert results.count(kept.digest) == 4
    refused = [each for each in results if each != kept.digest]
    assert all("is there already with another content" in each for each in refused)
    assert all(kept.digest in each for each in refused)


def test_an_agent_and_the_judge_get_what_was_added(keeper, records, objects, settings, tmp_path):
    send(keeper, pack(tmp_path / "set"))
    events = EventKeeper.build(records, settings, lambda: datetime.now(UTC))
    events.apply("winter", parse_event(EVENT, name="winter"), by="admin")
    data = events.find_data("winter")
    spec = build_spec(data=data)

    grant = grant_inputs(objects, settings, spec)["data"]
    archive, folder = tmp_path / "input.tar.gz", tmp_path / "in"
    folder.mkdir()
    Transfer().fetch(grant, archive, sha256=data.sha256, size=data.size, is_cancelled=lambda: False)
    unpack(archive, folder, max_bytes=100_000)

    judges = fetch_data(objects, settings, data)
    for place in (folder, judges):
        assert sorted(path.name for path in place.iterdir()) == ["data.toml", "eurusd.csv"]
        assert (place / "eurusd.csv").read_bytes() == BODY
