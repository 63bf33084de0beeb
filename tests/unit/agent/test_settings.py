"""Settings are right or refused, with the name of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.settings import AgentSettings, load_settings

PRIVATE, PUBLIC = generate_key()
MINIMAL = f"""
env = "dev"
state_dir = "state"
private_key_file = "server.key"
control_public_key = "{PUBLIC}"
images_allowed = ["good/trainer:*"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = tmp_path / "server.key"
    key.write_text(PRIVATE + "\n")
    key.chmod(0o600)
    return tmp_path


def load(folder: Path, text: str = MINIMAL, **environ: str) -> AgentSettings:
    path = folder / "agent.toml"
    path.write_text(text)
    return load_settings(path, environ)


def test_defaults_are_those_of_the_manual(folder: Path) -> None:
    settings = load(folder)

    assert settings.runtime == "docker"
    assert (settings.slots, settings.validation_slots) == (1, 1)
    assert settings.heartbeat_seconds == 15
    assert settings.keep_hours == 48
    assert (settings.gpu, settings.gpu_shares) == ("auto", 1)


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL.replace('images_allowed = ["good/trainer:*"]', ""),
        MINIMAL.replace('["good/trainer:*"]', "[]"),
        MINIMAL.replace('["good/trainer:*"]', '[""]'),
        MINIMAL.replace('["good/trainer:*"]', '[" "]'),
    ],
    ids=["missing", "no pattern", "an empty pattern", "a blank pattern"],
)
def test_an_agent_that_runs_images_says_which(folder: Path, text: str) -> None:
    """Every image there is ran on a server whose owner had named none."""
    with pytest.raises(ConfigurationError, match="images_allowed"):
        load(folder, text)


def test_the_way_out_of_a_missing_list_of_images_is_told(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'images_allowed = \["registry.example/trainer'):
        load(folder, MINIMAL.replace('["good/trainer:*"]', "[]"))


def test_an_agent_that_isolates_nothing_runs_no_image(folder: Path) -> None:
    text = MINIMAL.replace('images_allowed = ["good/trainer:*"]', 'runtime = "process"')

    settings = load(folder, text + '[process]\ncommand = ["run"]\n')

    assert settings.image_patterns is None


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    settings = load(folder)

    assert settings.state_dir == folder / "state"
    assert settings.journal_file == folder / "state/journal.db"


def test_queues_are_named_by_server_and_environment(folder: Path) -> None:
    settings = load(folder, 'server = "gpu-1"\n' + MINIMAL)

    assert settings.request_queue == "req-gpu-1.fifo"
    assert settings.control_queue == "ctl-gpu-1.fifo"
    assert settings.event_queue == "evt-dev.fifo"


def test_the_server_is_named_by_variable_then_file_then_host(folder: Path) -> None:
    text = 'server = "from-file"\n' + MINIMAL

    assert load(folder, text, TOUCHSTONE_SERVER="from-variable").server == "from-variable"
    assert load(folder, text).server == "from-file"
    assert load(folder).server


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("slot = 3", "slot"),
        ("[sqs]\nurl = 'x'", "sqs.url"),
        ("slots = -1", "slots"),
        ("runtime = 'podman'", "runtime"),
        ("runtime = 'process'", "process.command"),
        ("control_public_key_file = 'x'", "either control_public_key"),
        ("server = 'Not A Name'", "server"),
        ("gpu = 'some'", "gpu"),
        ("gpu_shares = 0", "gpu_shares"),
        ("gpu_shares = 65", "gpu_shares"),
        ("slots = ", "cannot read"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(folder: Path, line: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load(folder, MINIMAL + line)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read settings"):
        load_settings(tmp_path / "absent.toml", {})


def test_the_private_key_is_read(folder: Path) -> None:
    assert load(folder).read_private_key().private_bytes_raw()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660])
def test_a_private_key_that_others_can_use_is_refused(folder: Path, mode: int) -> None:
    settings = load(folder)
    settings.private_key_file.chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        settings.read_private_key()


def test_a_key_that_is_none_is_refused_without_repeating_it(folder: Path) -> None:
    settings = load(folder)
    settings.private_key_file.write_text("hunter2")

    with pytest.raises(ConfigurationError) as caught:
        settings.read_private_key()
    assert "hunter2" not in str(caught.value)


def test_the_control_planes_key_may_be_in_a_file(folder: Path) -> None:
    (folder / "control.pub").write_text(PUBLIC)
    text = MINIMAL.replace(
        f'control_public_key = "{PUBLIC}"', "control_public_key_file='control.pub'"
    )

    assert set(load(folder, text).read_control_keys()) == {"control"}
