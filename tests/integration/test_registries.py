"""What an image's tag means, asked of a real registry: with a login and without one."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fakes.registries import LOGIN, Registry, build_connection, build_random_layer
from touchstone.hooks.registry import pin_image
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TransientError

pytestmark = pytest.mark.integration

PASSWORD = "canary-of-the-registry"


@pytest.fixture(
    scope="module",
    params=[pytest.param(None, marks=pytest.mark.campaign(sample=3)), PASSWORD],
    ids=["open", "login"],
)
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with one image; the second one asks who is there."""
    found = Registry(tmp_path_factory.mktemp("registry"), password=request.param).start()
    found.push("team/trainer", "1", [build_random_layer("a", 1000)])
    yield found
    found.stop()


@pytest.fixture(params=["asked", pytest.param("by an engine", marks=pytest.mark.docker)], ids=str)
def settings(
    request: pytest.FixtureRequest, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings under which the registry is asked, or an engine asks it."""
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection())
    url = None
    if request.param != "asked":
        request.getfixturevalue("docker_engine")
        url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    return Settings(env="dev", registry_conn_ids=("images",), docker_url=url)


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Skip where there is no engine."""
    import docker

    try:
        docker.from_env().ping()
    except docker.errors.DockerException:
        pytest.skip("NO CONTAINER ENGINE: asking registries by one was NOT tested")


def find_digest(registry: Registry, tag: str) -> str:
    with registry._client() as client:
        return str(
            client.head(
                f"/v2/team/trainer/manifests/{tag}",
                headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            ).headers["Docker-Content-Digest"]
        )


def test_a_tag_is_pinned_to_what_it_names_now(registry: Registry, settings: Settings) -> None:
    image = f"{registry.host}/team/trainer:1"

    pinned = pin_image(settings, image)

    assert (pinned.pinned, pinned.note) == (f"{image}@{find_digest(registry, '1')}", None)


def test_a_tag_that_moves_changes_nothing_of_what_was_pinned(
    registry: Registry, settings: Settings
) -> None:
    image = f"{registry.host}/team/trainer:moving"
    first = registry.push("team/trainer", "moving", [build_random_layer("a", 1000)])
    before = str(pin_image(settings, image).pinned)
    second = registry.push("team/trainer", "moving", [build_random_layer("b", 1000)])

    assert pin_image(settings, before).pinned == before == f"{image}@{first}"
    assert pin_image(settings, image).pinned == f"{image}@{second}"


def test_a_tag_that_nobody_pushed_is_said_in_one_line(
    registry: Registry, settings: Settings
) -> None:
    with pytest.raises(ConfigurationError, match="has no such image: push it") as refused:
        pin_image(settings, f"{registry.host}/team/trainer:none")
    assert "\n" not in str(refused.value)


def test_a_wrong_password_is_said_without_the_password(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if registry.password is None:
        return
    wrong = registry.connection(password="not-the-canary")
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", wrong)

    with pytest.raises(ConfigurationError) as refused:
        pin_image(settings, f"{registry.host}/team/trainer:1")

    said = str(refused.value)
    assert f"refuses login '{LOGIN}': mend connection 'images'" in said
    assert "not-the-canary" not in said


def test_without_a_login_a_closed_registry_says_so(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if registry.password is None:
        return
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection(login=None, password=None))

    with pytest.raises(ConfigurationError, match="refuses anybody without a login"):
        pin_image(settings, f"{registry.host}/team/trainer:1")


def test_a_registry_that_is_down_is_asked_again_later(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Registry(tmp_path)
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", gone.connection())

    with pytest.raises(TransientError, match="image 127"):
        pin_image(settings, f"{gone.host}/team/trainer:1")


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("touchstone-elnigma:cpu", "its name has no registry"),
        ("registry.example/trainer:1", "no connection is for the registry registry.example"),
    ],
)
def test_what_no_registry_is_known_for_stays_what_each_machine_has(image: str, why: str) -> None:
    note = f"not resolved, {why}: each machine runs what it has"
    found = pin_image(Settings(env="dev"), image)
    assert (found.pinned, found.note) == (None, note)


# --- registries that ask for a token, and hostile ones ------------------------------------------


class Hostile:
    """A server that answers as it is told, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str | None]] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                authorization = self.headers.get("Authorization")
                outer.shown.append((path, authorization))
                status, headers, body = outer.answers.get(path, (404, {}, b""))
                if (authorization or "").startswith("Bearer token"):
                    status, headers, body = outer.answers.get("token", (status, headers, body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    found = Hostile()
    yield found
    found.server.shutdown()


@pytest.fixture
def other() -> Iterator[Hostile]:
    found = Hostile()
    yield found
    found.server.shutdown()


def pin(host: str, monkeypatch: pytest.MonkeyPatch, **extra: object) -> object:
    address, _, port = host.partition(":")
    connection = build_connection(
        host=address, port=int(port), login=LOGIN, password=PASSWORD, extra=extra
    )
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", connection)
    settings = Settings(env="dev", registry_conn_ids=("images",))
    return pin_image(settings, f"{host}/team/trainer:1").pinned


PLACE = "/v2/team/trainer/manifests/1"
DIGEST = f"sha256:{'a' * 64}"


def ask_for_token(host: str) -> tuple[int, dict[str, str], bytes]:
    challenge = f'Bearer realm="http://{host}/token",service="it",scope="anything"'
    return 401, {"WWW-Authenticate": challenge}, b""


def test_a_token_is_fetched_where_the_registry_gives_them_out(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile.answers[PLACE] = ask_for_token(hostile.host)
    hostile.answers["/token"] = (200, {}, b'{"token": "token-1"}')
    hostile.answers["token"] = (200, {"Docker-Content-Digest": DIGEST}, b"")

    assert pin(hostile.host, monkeypatch) == f"{hostile.host}/team/trainer:1@{DIGEST}"
    assert [(path, (shown or "").split(" ")[0]) for path, shown in hostile.shown] == [
        (PLACE, ""),
        ("/token", "Basic"),
        (PLACE, "Bearer"),
    ]


def test_another_host_is_not_shown_the_password_for_a_token_unless_an_admin_says_so(
    hostile: Hostile, other: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile.answers[PLACE] = ask_for_token(other.host)
    hostile.answers["token"] = (200, {"Docker-Content-Digest": DIGEST}, b"")
    other.answers["/token"] = (200, {}, b'{"token": "token-1"}')

    with pytest.raises(ConfigurationError, match=r"sends us to .* for a token"):
        pin(hostile.host, monkeypatch)
    assert other.shown == []

    assert pin(hostile.host, monkeypatch, token_host=other.host)
    assert [path for path, _ in other.shown] == ["/token"]


def test_nobody_is_shown_the_password_by_a_redirect(
    hostile: Hostile, other: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile.answers[PLACE] = (307, {"Location": f"http://{other.host}{PLACE}"}, b"")

    with pytest.raises(PermanentError, match="answers 307"):
        pin(hostile.host, monkeypatch)
    assert other.shown == []


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (403, ConfigurationError, "may not pull it"),
        (429, TransientError, "answers 429"),
        (503, TransientError, "answers 503"),
    ],
)
def test_other_answers_are_told_by_what_helps(
    hostile: Hostile,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    error: type[Exception],
    words: str,
) -> None:
    hostile.answers[PLACE] = (status, {}, b"")
    with pytest.raises(error, match=words):
        pin(hostile.host, monkeypatch)


def test_an_answer_without_a_digest_is_read_up_to_a_limit(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile.answers[PLACE] = (200, {}, b"{}")
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert pin(hostile.host, monkeypatch) == f"{hostile.host}/team/trainer:1@sha256:{digest}"

    hostile.answers[PLACE] = (200, {}, b" " * (4 * 1024**2 + 1))
    with pytest.raises(ConfigurationError, match="more than 4194304 bytes"):
        pin(hostile.host, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "http://registry.example"}, "only a registry on this machine may be http"),
        ({"host": "a b"}, "the host is"),
        ({"host": ""}, "the host is"),
        ({"password": None}, "has a login and no password"),
        ({"login": "a:b"}, "a login has no ':'"),
    ],
)
def test_a_connection_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], words: str
) -> None:
    fields = {"login": LOGIN, "password": PASSWORD, "host": "registry.example"}
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", build_connection(**(fields | changes)))
    settings = Settings(env="dev", registry_conn_ids=("images",))

    with pytest.raises(ConfigurationError, match=words) as refused:
        pin_image(settings, "registry.example/trainer:1")
    assert "connection 'images'" in str(refused.value)


def test_a_connection_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "touchstone.hooks.registry.BaseHook.get_connection", raise_not_found, raising=True
    )
    with pytest.raises(ConfigurationError, match="'images' of TOUCHSTONE_REGISTRY_CONN_IDS"):
        pin_image(Settings(env="dev", registry_conn_ids=("images",)), "registry.example/t:1")


def raise_not_found(*_: object) -> None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    raise AirflowNotFoundException("no such connection")


def test_the_registry_of_these_tests_asks_for_a_login(registry: Registry) -> None:
    answer = httpx.get(f"http://{registry.host}/v2/team/trainer/tags/list", trust_env=False)
    assert answer.status_code == (401 if registry.password else 200)


@pytest.mark.docker
def test_a_check_pulls_what_a_submission_would_run_by_the_connections_login(
    registry: Registry, docker_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import docker

    from touchstone.stack import checking
    from touchstone.stack.layout import Runtime

    image = f"{registry.host}/team/trainer:1"
    settings = Settings(env="dev", registry_conn_ids=("images",), trainer_image=image)
    # The trainer of this checkout is not what is asked for here.
    monkeypatch.setattr(checking, "choose_runtime", lambda *_: Runtime.DOCKER)
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection())
    client = docker.from_env()
    digest = find_digest(registry, "1")
    by_content = f"{registry.host}/team/trainer@{digest}"
    try:
        with checking._open_runtime(settings, "docker") as (_, found, _, _):
            assert found == f"{image}@{digest}"
            assert client.images.get(by_content)
        # What is here is not fetched again, and that nobody else's login is used shows only so.
        client.images.remove(by_content)
        if registry.password is not None:
            monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection(password="wrong"))
            with (
                pytest.raises(ConfigurationError, match="mend connection 'images'"),
                checking._open_runtime(settings, "docker"),
            ):
                pass
    finally:
        for left in client.images.list(name=f"{registry.host}/team/trainer"):
            client.images.remove(left.id, force=True)


def test_a_command_tells_whether_a_connection_is_right(registry: Registry, tmp_path: Path) -> None:
    def ask(image: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("touchstone"), "agent", "images", image],
            env=os.environ
            | {
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW_CONN_IMAGES": registry.connection(**changes),
                "TOUCHSTONE_REGISTRY_CONN_IDS": '["images"]',
            },
            capture_output=True,
            text=True,
            check=False,
        )

    image = f"{registry.host}/team/trainer:1"
    done = ask(image)
    assert (done.returncode, done.stdout) == (0, f"{image}@{find_digest(registry, '1')}\n")
    done = ask(f"{registry.host}/team/trainer:none")
    assert done.returncode == 1
    assert "has no such image" in done.stderr
    if registry.password is not None:
        done = ask(image, password="wrong-canary")
        assert done.returncode == 1
        assert done.stdout == ""
        assert "refuses login 'puller': mend connection 'images'" in done.stderr
        assert "wrong-canary" not in done.stderr
