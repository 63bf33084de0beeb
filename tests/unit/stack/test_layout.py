from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from touchstone.stack.layout import (
    REPOSITORY,
    find_record,
    find_state_dir,
    get_record,
    write_private,
)
from touchstone_agent.protocol.errors import ConfigurationError


def test_the_command_line_outranks_the_environment() -> None:
    environ = {"TOUCHSTONE_STATE_DIR": "/from/environment"}
    assert find_state_dir(Path("/given"), environ).root == Path("/given")
    assert find_state_dir(None, environ).root == Path("/from/environment")
    assert find_state_dir(None, {}).root == REPOSITORY / ".touchstone"


@pytest.mark.parametrize("name", ["50% off", "a;b", "what?", "#1", 'a "b"'])
def test_a_path_that_configurations_cannot_hold_is_refused(name) -> None:
    with pytest.raises(ConfigurationError, match="state directory"):
        find_state_dir(Path("/tmp") / name, {})


def test_a_record_survives_being_written(paths, record) -> None:
    write_private(paths.record, record.model_dump_json())
    assert find_record(paths) == record


def test_a_record_of_the_version_before_is_read(paths, record) -> None:
    """It may lack the port of a part that was added since, and hold that of one removed."""
    old = json.loads(record.model_dump_json())
    del old["ports"]["execution"], old["urls"]["execution"]
    old["ports"]["removed"] = 1
    paths.record.write_text(json.dumps(old))
    read = get_record(paths)
    assert (read.ports.execution, read.ports.airflow) == (0, record.ports.airflow)


def test_no_record_is_no_stack(paths) -> None:
    assert find_record(paths) is None
    with pytest.raises(ConfigurationError, match="touchstone up"):
        get_record(paths)


def test_a_foreign_record_is_refused(paths) -> None:
    paths.record.write_text('{"something": "else"}')
    with pytest.raises(ConfigurationError, match="--state-dir"):
        find_record(paths)


def test_private_files_replace_what_was_open_to_others(tmp_path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
