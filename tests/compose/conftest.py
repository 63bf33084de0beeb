"""One deployment for all tests of this folder."""

from __future__ import annotations

import docker
import pytest
from docker.errors import DockerException

from compose.deployment import Deployment, find_compose


@pytest.fixture(scope="session")
def compose():
    """The command of compose, for an engine that answers."""
    found = find_compose()
    if found is None:
        pytest.skip("neither docker compose nor docker-compose is here")
    try:
        docker.from_env().ping()
    except DockerException:
        pytest.skip("no container engine answers")
    return found


@pytest.fixture(scope="session")
def new_deployment(tmp_path_factory, compose):
    """A deployment that has its settings and secrets, and is not up."""
    return Deployment(tmp_path_factory.mktemp("deployment"), compose)


@pytest.fixture(scope="session")
def deployment(new_deployment):
    """A deployment that is up and healthy; whatever is left of it in the end is removed."""
    new_deployment.build()
    try:
        new_deployment.compose("up", "-d")
        new_deployment.wait_until_healthy()
        yield new_deployment
    finally:
        new_deployment.compose("down", "-v", "--remove-orphans")
