"""The configuration of a stack's agents. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from touchstone.core.enrolment import render_toml
from touchstone.settings import Settings
from touchstone.stack.layout import REPOSITORY, LocalServer, StackRecord, StatePaths

RUNNER_COMMAND = (
    str(REPOSITORY / "include/elnigma/.venv/bin/python"),
    *("-P", "-m", "elnigma_runner"),
)
"""The runner in the trainer's own environment, for processes without an image."""
DEFAULT_IMAGE = str(Settings.model_fields["trainer_image"].default)


def render_agent_config(
    paths: StatePaths, record: StackRecord, server: LocalServer, environ: Mapping[str, str]
) -> str:
    """
    Return the configuration file of one server's agent.

    :param environ: The shell's environment.
    """
    top: dict[str, object] = {
        "env": record.env,
        "server": server.name,
        "state_dir": str(paths.agent_state(server.name)),
        "private_key_file": str(paths.agent_key(server.name)),
        "control_public_key_file": str(paths.control_public_key),
        "runtime": str(record.runtime),
        # What the control plane asks for, and nothing else.
        "images_allowed": [
            environ.get("TOUCHSTONE_TRAINER_IMAGE") or DEFAULT_IMAGE,
            *filter(None, [environ.get("TOUCHSTONE_TRAINER_IMAGE_CUDA")]),
        ],
        "slots": server.slots,
        "validation_slots": server.validation_slots,
        # Beside the dispatcher heartbeats cost nothing, and status follows them.
        "heartbeat_seconds": 5,
    }
    tables: dict[str, dict[str, object]] = {
        "sqs": {"endpoint_url": record.urls.ministack, "region": record.region},
        "process": {"command": list(RUNNER_COMMAND)},
    }
    if engine := environ.get("DOCKER_HOST"):
        tables["docker"] = {"url": engine}
    return render_toml(top, tables)
