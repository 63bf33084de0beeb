"""The fleet file: what is understood, and in which words the rest is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from touchstone.core.documents import MAX_CHARACTERS
from touchstone.core.fleet import parse_fleet
from touchstone.core.manifest import parse_manifest
from touchstone_agent.protocol.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[3]

WHOLE = """
schema_version = 1

[defaults]
priority = 5
deny = ["smoke-*"]
gpu_price_per_hour = 0.35

[servers.rio-3090]
description = "two RTX 3090"
priority = 10
slots = 2
validation_slots = 3
capabilities = { cuda = true, vram_gib = 24, ram_gib = 127.5 }
allow = ["feature_set"]
env = "prod"

[servers.cpu1]
slots = 0
deny = []

[runpod]
slots = 4

[weights]
ann = 2
"ci@host" = 0.5
"""


def refuse(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_fleet(text)
    return str(caught.value)


def server(text, name="rio"):
    return f"schema_version = 1\n[servers.{name}]\n{text}\n"


def test_a_whole_file_is_understood():
    fleet = parse_fleet(WHOLE)

    assert fleet.servers["rio-3090"].build_declared().dump() == {
        "description": "two RTX 3090",
        "priority": 10,
        "slots": 2,
        "validation_slots": 3,
        "cuda": True,
        "vram_gib": 24,
        "ram_gib": 127.5,
        "allow": ["feature_set"],
        "deny": ["smoke-*"],
        "gpu_price_per_hour": 0.35,
    }
    assert fleet.servers["rio-3090"].env == "prod"
    assert fleet.runpod.slots == 4
    assert fleet.weights == {"ann": 2, "ci@host": 0.5}


def test_a_server_has_the_defaults_where_it_says_nothing_and_its_own_word_elsewhere():
    cpu = parse_fleet(WHOLE).servers["cpu1"]

    assert (cpu.priority, cpu.slots, cpu.validation_slots, cpu.deny) == (5, 0, None, ())
    assert cpu.capabilities.cuda is None


def test_the_version_alone_is_a_fleet_without_servers():
    fleet = parse_fleet("schema_version = 1")

    assert (fleet.servers, fleet.weights, fleet.runpod.slots) == ({}, {}, 0)


def test_a_byte_order_mark_is_overlooked():
    assert parse_fleet("\ufeffschema_version = 1").schema_version == 1


def test_the_file_of_this_repository_is_right():
    fleet = parse_fleet((REPOSITORY / "include" / "fleet.toml").read_text())

    assert list(fleet.servers) == ["local"]


def test_the_examples_of_the_documentation_are_right():
    text = (REPOSITORY / "docs" / "fleet.md").read_text()
    fleet, manifest = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)

    assert list(parse_fleet(fleet).servers) == ["rio3090"]
    assert [job.name for job in parse_manifest(manifest).jobs] == ["momentum-deep"]


@pytest.mark.parametrize("found", ["2", "0", '"1"', "true", "1.0", "[1]"])
def test_another_version_is_refused_before_anything_else_is_looked_at(found):
    message = refuse(f"schema_version = {found}\nunknown = 1")

    assert message.startswith("schema_version: ")
    assert "reads version 1" in message


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "[servers.rio]"])
def test_a_file_without_a_version_is_told_what_to_write(text):
    assert "write `schema_version = 1`" in refuse(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("slots = 1\n[servers.rio]\nslots = 2", "servers.rio: declared twice (at line 4"),
        ("slots = 1\nslots = 2", "the same key twice (at line 4"),
    ],
)
def test_what_stands_there_twice_is_named_with_its_line(text, named):
    assert named in refuse(server(text))


def test_names_that_differ_only_by_case_are_one_name():
    message = refuse("schema_version = 1\n[servers.rio]\n[servers.Rio]")

    assert "'rio'" in message
    assert "'Rio'" in message


@pytest.mark.parametrize(
    "name",
    ["Rio", '"rio 1"', '""', '"rio/1"', '"../rio"', "-rio", "rio_1", "a" * 61, '"ri\\u00f6"',
     '"a\\nb"', '"a.b"', '"#control"'],
)  # fmt: skip
def test_a_name_that_no_pool_queue_or_container_can_have_is_refused(name):
    assert "cannot be a server's name" in refuse(server("", name))


@pytest.mark.parametrize("name", ["runpod", "touchstone_queue", "rio_validation"])
def test_names_of_touchstones_own_are_refused(name):
    assert "keeps for itself" in refuse(server("", name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = -1", "servers.rio.slots: -1 is below 0"),
        ("validation_slots = -1", "servers.rio.validation_slots: -1 is below 0"),
        ("slots = 1001", "servers.rio.slots: 1001 is above 1000"),
        ("slots = true", "servers.rio.slots: True is not a whole number"),
        ("slots = 1.5", "servers.rio.slots: 1.5 is not a whole number"),
        ('slots = "2"', "servers.rio.slots: '2' is not a whole number"),
        ("slots = 0x" + "f" * 1000, "servers.rio.slots: a number of many digits is above"),
        ("slot = 1", "servers.rio.slot: unknown key; did you mean slots?"),
        ("capabilities = { gpu = true }", "servers.rio.capabilities.gpu: unknown key"),
        ("capabilities = { cuda = 1 }", "servers.rio.capabilities.cuda: 1 is neither true"),
        ("gpu_price_per_hour = -0.1", "servers.rio.gpu_price_per_hour: -0.1"),
        ("capabilities = { vram_gib = -1 }", "servers.rio.capabilities.vram_gib: -1"),
        ("capabilities = { vram_gib = nan }", "capabilities.vram_gib: nan is not a finite"),
        ("capabilities = { ram_gib = inf }", "capabilities.ram_gib: inf is not a finite"),
        ('allow = "a"', "servers.rio.allow: 'a' is not a list"),
        ("allow = [1]", "servers.rio.allow.0: 1 is not a text"),
        ('allow = [""]', "servers.rio.allow.0: '' is not a pattern"),
        ('deny = [" a"]', "servers.rio.deny.0: ' a' is not a pattern"),
        ('deny = ["a", "b", "a"]', "servers.rio.deny: 'a' stands there twice"),
        ('allow = ["x"]\ndeny = ["x"]', "servers.rio.deny: 'x' is in allow as well"),
        ('description = "\\u001b[2J"', "servers.rio.description: '\\x1b[2J' has characters"),
        ('description = "\\u0000"', "cannot be printed"),
        (f'description = "{"x" * 201}"', "servers.rio.description: is longer than 200"),
        ('env = "Prod"', "servers.rio.env: 'Prod' is not of the form"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(text, message):
    assert message in refuse(server(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("servers = 3", "servers: 3 is not a table"),
        ("servers.rio = 3", "servers.rio: 3 is not a table"),
        ("defaults = 3", "defaults: 3 is not a table"),
        ("[defaults]\nslots = -2", "defaults.slots: -2 is below 0"),
        ("[server.rio]", "server: unknown key; did you mean servers?"),
        ("[runpod]\nslots = -1", "runpod.slots: -1 is below 0"),
        ("[weights]\nann = 0", "weights.ann: 0 is not above 0"),
        ("[weights]\nann = true", "weights.ann: True is not a number"),
        ("[weights]\nann = inf", "weights.ann: inf is not a finite number"),
        ('[weights]\n"\\u001b" = 1', "cannot be printed"),
        ('[defaults]\nallow = ["x"]\n[servers.rio]\ndeny = ["x"]', "servers.rio.deny: 'x'"),
        ("= 1", "fleet file: not TOML: "),
        ("a = " + "[\n" * 20_000, "nested too deeply"),
        ("a = " + "9" * 5000, "fleet file: line 2 has"),
        ("\x00", "fleet file: not TOML: "),
        ("# \ud800", "not UTF-8"),
        ("#x\n" * MAX_CHARACTERS, "characters; at most"),
        ("a" + ".a" * 600 + " = 1", "fleet file: line 2 has 1205 characters; break it up"),
    ],
)
def test_a_malformed_file_is_refused_in_one_sentence(text, message):
    said = refuse("schema_version = 1\n" + text)

    assert message in said
    assert len(said) < 500
    assert said.isprintable()


def test_a_fleet_of_thousands_is_too_large():
    tables = "\n".join(f"[servers.s{number}]" for number in range(1001))

    assert "servers: has more than 1000" in refuse("schema_version = 1\n" + tables)
