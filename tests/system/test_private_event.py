"""An event on data that stay at their server: what a whole stack stores of it has no price."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

import pytest

from fakes.canaries import LEAKING, Canaries, Prices
from fakes.stored import list_folder, list_stored
from system.installation import REPOSITORY, Installation
from touchstone.stack.layout import StatePaths

NAME = "prices-of-one"
JUDGE = REPOSITORY / "judge/.venv/bin/python"
EVENT = f"""\
schema_version = 1
title = "Prices of one"
share = "scores"

[data]
name = "{NAME}"

[judging]
intervals = [1]

[quota]
submissions = 5
"""
SIDES = ("score_long", "score_short")
OWN_FOLDERS = frozenset({"private", "attempts"})
"""Of an agent's state: where all that attempts leave is its server owner's."""

PLACES = ("show", "results", "compare", "records of", "airflow/", "logs/")


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    return Prices(tmp_path_factory.mktemp("owner") / "prices", NAME)


@pytest.fixture(scope="module")
def paths(installation):
    return StatePaths(root=installation.state_dir)


@pytest.fixture(scope="module")
def server(installation, paths, prices):
    """The stack's only server, which holds the prices for as long as this module takes."""
    (server,) = (each["name"] for each in installation.stack["servers"])
    part = f"agent-{server}"
    config, owners = paths.agent_config(server), paths.agents / "private.toml"
    before = config.read_text()
    # Without containers an agent holds private data only if its settings call that a test.
    config.write_text(before.replace("[process]", "[process]\nmay_hold_private_data = true", 1))
    owners.write_text(
        f'[judge]\npython = "{JUDGE}"\n\n[[private_data]]\nname = "{NAME}"\n'
        f'version = "2018-02"\ndigest = "{prices.digest}"\nfolder = "{prices.folder}"\n'
    )
    installation.wait_until_restarted(part, installation.kill(part))
    yield server
    owners.unlink()
    config.write_text(before)
    installation.wait_until_restarted(part, installation.kill(part))


@pytest.fixture(scope="module")
def event(installation, server, prices, tmp_path_factory):
    added = installation.ask("data", "add", str(prices.folder), "--private")
    assert added["digest"] == prices.digest
    file = tmp_path_factory.mktemp("events") / f"{NAME}.toml"
    file.write_text(EVENT)
    assert installation.ask("event", "apply", str(file))["refused"] == {}
    return NAME


@pytest.fixture(scope="module")
def trained(installation, event, tmp_path_factory):
    """Features that print all that they are given, in a validation and in a training."""
    content = tmp_path_factory.mktemp("content")
    (content / "features.py").write_text(LEAKING)
    return installation.ask(
        "submit",
        str(content),
        *("--event", event, "--intervals", "1", "--config", "fast.toml"),
        *("--override", "training.epochs=1", "--wait"),
    )["submission_id"]


def list_files(installation: Installation, server: str) -> Iterator[tuple[str, bytes]]:
    """Yield every file of the stack, databases and logs included, but for the owner's own."""
    own = StatePaths(root=installation.state_dir).agent_state(server)
    yield from list_folder(installation.state_dir, but={own / name for name in OWN_FOLDERS})


def test_it_is_scored_by_its_server_and_says_why_there_is_no_verdict(
    installation, trained, server, event
):
    task = installation.task(trained, "i1")
    judged = task["published"]["judged"]
    assert (task["status"], task["server"]) == ("success", server), task
    assert (judged["status"], judged["there"]["server"]) == ("judged", server)
    assert not task.get("files")

    board = installation.ask("leaderboard", event)
    (row,) = (each for each in board["rows"] if each["name"] == trained)
    assert row["score"] is not None
    (said,) = installation.ask("compare", trained)["rows"]
    assert said["verdict"] == "not judged"
    assert "stay at the server that holds the data" in json.dumps(said)


def test_no_price_outcome_or_prediction_is_anywhere_but_with_its_owner(
    installation, trained, server, prices, paths
):
    kept = paths.agent_state(server) / "private"
    consoles = [path.read_bytes() for path in kept.glob("*/console.log")]
    (predictions,) = kept.glob("*/predictions.csv")
    with predictions.open() as file:
        scored = [[float(row[side]) for side in SIDES] for row in csv.DictReader(file)]
    # Others' predictions are in the same stores.
    canaries = Canaries(prices.closes, prices.outcomes, digits=12)
    # By column as in a list, and by row as in a table.
    columns = [list(side) for side in zip(*scored, strict=True)]
    rows = Canaries(*columns, [score for row in scored for score in row], in_pairs=True)
    assert len(consoles) == 2
    assert all(map(canaries.find, consoles)), "what is submitted has printed prices"
    assert rows.find(predictions.read_bytes())

    told = {}
    for name in ("show", "results", "compare"):
        told[name] = installation.run(name, trained, "--json").stdout.encode()
    looked_at = [
        *told.items(),
        *list_stored(installation._aws),
        *list_files(installation, server),
    ]

    # Each kind of place was looked at; but for objects, which have its content, they name it.
    assert any(name.startswith("objects of") for name, _ in looked_at)
    for kind in PLACES:
        bodies = [body for name, body in looked_at if name.startswith(kind)]
        assert any(trained.encode() in body for body in bodies), kind
    for numbers in (canaries, rows):
        assert {name: found for name, body in looked_at if (found := numbers.find(body))} == {}
