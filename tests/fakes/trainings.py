"""A training in a container of an image, started without an agent."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

ARGUMENTS = ("train", "--config", "fast.toml", "--prediction-interval", "5", "--out", "/out")
NOBODY = 65534


@dataclass(frozen=True)
class Training:
    """What a training has left."""

    exit_code: int
    out: Path

    @property
    def verdict(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "verdict.json").read_text())
        return document

    @property
    def result(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "result.json").read_text())
        return document

    @property
    def phases(self) -> list[str]:
        lines = (self.out / "progress.jsonl").read_text().splitlines()
        return [json.loads(line)["phase"] for line in lines]


def train(
    engine: docker.DockerClient,
    image: str,
    out: Path,
    *,
    devices: Sequence[str] = (),
    **variables: str,
) -> Training:
    """
    Run a short training in a container without a network.

    :param engine: The container engine.
    :param image: A trainer image.
    :param out: Output folder; made here.
    :param devices: Devices of the host that it gets, ``HERE:THERE``.
    :param variables: Given to the runner, as TOUCHSTONE_ and their name.
    """
    out.mkdir()
    out.chmod(0o777)
    user = NOBODY if os.getuid() == 0 else os.getuid()
    container = engine.containers.run(
        image,
        list(ARGUMENTS),
        detach=True,
        user=f"{user}:{user}",
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "rw,exec"},
        cap_drop=["ALL"],
        devices=list(devices),
        environment={f"TOUCHSTONE_{name}": value for name, value in variables.items()},
        volumes={str(out): {"bind": "/out", "mode": "rw"}},
    )
    try:
        exit_code = int(container.wait(timeout=1200)["StatusCode"])
        (out.parent / f"{out.name}.log").write_bytes(container.logs())
        return Training(exit_code, out)
    finally:
        container.remove(force=True, v=True)
