from __future__ import annotations

import configparser
import shlex
import tomllib

import pytest
from supervisor.options import ServerOptions

from touchstone.stack.agent_config import render_agent_config
from touchstone.stack.programs import LISTENER, build_parts, build_supervisor_config
from touchstone_agent.settings import load_settings


@pytest.fixture
def parts(paths, record, credentials):
    return build_parts(paths, record, credentials, {})


def read_by_supervisor(paths, text):
    paths.supervisor_config.write_text(text)
    options = ServerOptions()
    options.configfile = str(paths.supervisor_config)
    options.process_config(do_usage=False)
    return {
        program.name: program
        for group in options.process_group_configs
        for program in group.process_configs
    }


def test_the_supervisor_understands_its_configuration(paths, record, parts) -> None:
    programs = read_by_supervisor(paths, build_supervisor_config(paths, record, parts))
    assert set(programs) == {LISTENER, *(part.name for part in parts)}
    agent = programs["agent-local"]
    assert agent.autorestart
    assert not agent.autostart
    assert agent.killasgroup
    assert agent.stopasgroup


def test_no_secret_is_in_the_supervisors_configuration(paths, record, parts, credentials) -> None:
    text = build_supervisor_config(paths, record, parts)
    keys = {name: private for name, (private, _) in credentials.agents.items()}
    others = credentials.model_dump(exclude={"passwords", "agents"})
    secrets = {**others, **keys, **credentials.passwords}
    assert not [name for name, value in secrets.items() if value in text]


def test_a_path_with_blanks_survives(paths, record, credentials, tmp_path) -> None:
    odd = type(paths)(root=tmp_path / "two words")
    odd.make()
    parts = build_parts(odd, record, credentials, {})
    agent = read_by_supervisor(odd, build_supervisor_config(odd, record, parts))["agent-local"]
    assert agent.stdout_logfile == str(odd.log_of("agent-local"))
    assert str(odd.environments / "agent-local.json") in shlex.split(agent.command)


def test_the_same_stack_gives_the_same_configuration(paths, record, credentials) -> None:
    """A second ``up`` must not restart anything."""
    texts = {
        build_supervisor_config(paths, record, build_parts(paths, record, credentials, environ))
        for environ in ({}, {"PATH": "/other", "TERM": "xterm"})
    }
    assert len(texts) == 1


def test_a_part_whose_environment_changes_is_restarted_and_no_other(
    paths, record, credentials, parts
) -> None:
    moved = record.model_copy(update={"ports": record.ports.model_copy(update={"mlflow": 20009})})
    before, after = configparser.RawConfigParser(), configparser.RawConfigParser()
    before.read_string(build_supervisor_config(paths, record, parts))
    after.read_string(
        build_supervisor_config(paths, moved, build_parts(paths, moved, credentials, {}))
    )
    changed = {name for name in before if dict(before[name]) != dict(after[name])}
    # The connection of MLflow changes for Airflow's parts as well.
    assert "program:mlflow" in changed
    assert not changed & {"program:ministack", "program:agent", f"eventlistener:{LISTENER}"}


def test_the_agent_reads_its_configuration(paths, record, credentials) -> None:
    environ = {"DOCKER_HOST": "unix:///run/user/1/docker.sock"}
    config = paths.agent_config("local")
    config.write_text(render_agent_config(paths, record, record.servers[0], environ))
    settings = load_settings(config, {})
    assert (settings.server, settings.slots, settings.runtime) == ("local", 2, "docker")
    assert settings.docker.url == "unix:///run/user/1/docker.sock"
    assert settings.private_key_file == paths.agent_key("local")


def test_any_path_is_valid_in_the_agents_configuration(record, paths) -> None:
    odd = type(paths)(root=paths.root / 'a "quoted" \\ folder')
    assert tomllib.loads(render_agent_config(odd, record, record.servers[0], {}))[
        "state_dir"
    ] == str(odd.agent_state("local"))
