"""One team deployment, driven as an admin does: by scripts, compose and the command line."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import httpx

from fakes.ports import find_free_port
from waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
TOUCHSTONE = Path(sys.executable).with_name("touchstone")

DONE_ONCE = {"init", "trainer"}
"""Services that do one thing and end."""


def find_compose() -> list[str] | None:
    """Return the command of Compose v2, else that of docker-compose 1, else ``None``."""
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if found.returncode == 0:
        return ["docker", "compose"]
    command = shutil.which("docker-compose")
    return [command] if command else None


class Deployment:
    """
    A deployment with names, ports, secrets and volumes of its own.

    :param folder: Where its settings and secrets are.
    :param compose: The command of compose.
    :param settings: What of the settings is another than that of ``.env.example``.
    """

    def __init__(
        self, folder: Path, compose: list[str], settings: Mapping[str, str] | None = None
    ) -> None:
        self._settings = dict(settings or {})
        self.engine = docker.from_env()
        self.folder = folder
        self.env = f"t{secrets.token_hex(3)}"
        self.project = f"touchstone-{self.env}"
        self.port, self.mlflow_port = find_free_port(), find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env_file = folder / "env"
        self.secrets = folder / "secrets"
        self._compose = compose
        self._write_settings()
        self.script("deploy/make-secrets.sh", str(self.env_file))
        self.passwords = json.loads((self.secrets / "airflow_passwords.json").read_text())

    def _write_settings(self) -> None:
        socket_file = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        root = self.engine.info()["DockerRootDir"]
        wanted = {
            "COMPOSE_PROJECT_NAME": self.project,
            "TOUCHSTONE_ENV": self.env,
            "TOUCHSTONE_AIRFLOW_PORT": str(self.port),
            "TOUCHSTONE_MLFLOW_PORT": str(self.mlflow_port),
            "TOUCHSTONE_PUBLIC_URL": self.url,
            "TOUCHSTONE_MLFLOW_PUBLIC_URL": f"http://127.0.0.1:{self.mlflow_port}",
            "TOUCHSTONE_SECRETS_DIR": str(self.secrets),
            "TOUCHSTONE_DOCKER_SOCKET": socket_file.removeprefix("unix://"),
            "TOUCHSTONE_LOCAL_SLOTS": "2",
            "TOUCHSTONE_AGENT_DIR": f"{root}/volumes/{self.project}_agent/_data",
            # The machine's own resolver, proxy and routes: what works here works in the build.
            "TOUCHSTONE_BUILD_NETWORK": "host",
            **self._settings,
        }
        lines = (REPOSITORY / ".env.example").read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
        assert wanted.keys() <= settings.keys(), "a setting is missing in .env.example"
        text = "".join(f"{name}={value}\n" for name, value in (settings | wanted).items())
        self.env_file.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """What commands get of this process's environment, and where the deployment is."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOUCHSTONE_", "COMPOSE"))}
        return kept | {
            "TOUCHSTONE_ENV_FILE": str(self.env_file),
            "TOUCHSTONE_URL": self.url,
            # Progress bars of builds are nothing for a report.
            "BUILDKIT_PROGRESS": "plain",
            "NO_COLOR": "1",
        }

    # --- commands --------------------------------------------------------------------------

    def script(self, *command: str) -> str:
        """Run one of the repository's scripts, which must succeed."""
        return _run(list(command), {**os.environ, "TOUCHSTONE_ENV_FILE": str(self.env_file)})

    def compose(self, *arguments: str, profile: str = "local") -> str:
        """Run compose, which must succeed; return what it printed."""
        options = ["--env-file", str(self.env_file), "--profile", profile]
        return _run([*self._compose, *options, *arguments], self.environment)

    def build(self) -> None:
        """Make the stand-ins of base images, and our own images."""
        self.script("scripts/make-compose-images.sh")
        self.compose("build")

    def touchstone(self, *arguments: str, user: str = "engineer") -> Any:
        """Run ``touchstone`` on this machine with ``--json``; return what it printed."""
        command = [str(TOUCHSTONE), *arguments, "--json"]
        login = {"TOUCHSTONE_USER": user, "TOUCHSTONE_PASSWORD": self.passwords[user]}
        return json.loads(_run(command, self.environment | login))

    # --- what there is ---------------------------------------------------------------------

    def get_secrets(self) -> dict[str, str]:
        """Return every secret value; other files hold these in another form."""
        endings = ("_password", "_private_key", "_secret", "_secret_key", "fernet_key")
        files = [file for file in self.secrets.iterdir() if file.name.endswith(endings)]
        assert len(files) == 10
        return self.passwords | {file.name: file.read_text().strip() for file in files}

    def list_containers(self) -> dict[str, Any]:
        """Return the containers by service."""
        wanted = {"label": f"com.docker.compose.project={self.project}"}
        return {
            container.labels["com.docker.compose.service"]: container
            for container in self.engine.containers.list(
                all=True, filters=wanted, ignore_removed=True
            )
        }

    def list_attempts(self) -> list[str]:
        """Return the names of the containers that the agent has started."""
        wanted = {"label": f"touchstone.env={self.env}"}
        return [
            c.name
            for c in self.engine.containers.list(all=True, filters=wanted, ignore_removed=True)
        ]

    def find_unready(self) -> dict[str, str]:
        """Return each service that is not healthy, or did not end well, with its state."""
        unready = {}
        for service, container in self.list_containers().items():
            state = container.attrs["State"]
            if service in DONE_ONCE:
                is_ready = state["Status"] == "exited" and state["ExitCode"] == 0
            else:
                is_ready = state.get("Health", {}).get("Status") == "healthy"
            if not is_ready:
                health = state.get("Health", {}).get("Status", "no health check")
                unready[service] = f"{state['Status']}, {health}"
        return unready

    def wait_until_healthy(self) -> None:
        """Wait until every service is healthy or has done its one thing, unless one has failed."""
        wait_for("all is well", lambda: not self.find_unready(), unless=self.find_failed, every=3)

    def find_failed(self) -> str | None:
        """Say which services have ended badly; those that last are started again by the engine."""
        failed = [
            service
            for service, container in self.list_containers().items()
            if service in DONE_ONCE and container.attrs["State"]["Status"] == "exited"
            if container.attrs["State"]["ExitCode"] != 0
        ]
        if not failed:
            return None
        return f"{failed}: {self.compose('logs', '--no-color', '--tail', '40', *failed)}"

    def airflow(self, path: str) -> Any:
        """Ask Airflow's REST API as the admin."""
        login = {"username": "admin", "password": self.passwords["admin"]}
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            answer = client.post("/auth/token", json=login).raise_for_status()
            headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            return client.get(f"/api/v2/{path}", headers=headers).raise_for_status().json()

    def find_left_over(self) -> dict[str, list[str]]:
        """Return what there still is of the deployment on the engine."""
        ours = {"label": f"com.docker.compose.project={self.project}"}
        found = {
            "containers": [
                c.name
                for c in self.engine.containers.list(all=True, filters=ours, ignore_removed=True)
            ],
            "attempts": self.list_attempts(),
            "volumes": [v.name for v in self.engine.volumes.list(filters=ours)],
            "networks": [n.name for n in self.engine.networks.list(filters=ours)],
        }
        return {kind: names for kind, names in found.items() if names}


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout
