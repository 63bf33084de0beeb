"""Puts the emulator together."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fakes.runpod import admin, graph, rest
from fakes.runpod.clock import Clock
from fakes.runpod.cloud import Cloud, Options
from fakes.runpod.gateway import DOCUMENTED_WINDOWS, Gateway, RateLimit, Window
from fakes.runpod.process import SSHD, ProcessRuntime
from fakes.runpod.refusals import Dropped
from fakes.runpod.runtime import NoRuntime, Runtime
from fakes.runpod.store import Store


@dataclass(frozen=True, kw_only=True)
class Config:
    """
    How an emulator is started.

    :param state_dir: Where it keeps everything.
    :param host: Loopback address of API and pods.
    :param port: Port of the API; 0 for any.
    :param pods: ``docker``, ``process``, ``plain`` (a process without namespaces), ``none``, or
        ``auto`` for the first that works.
    :param programs: Folders whose programs a process pod has on its PATH.
    :param entrypoint: Entry point of process pods, run beside sshd.
    :param page_size: Pods on a page of a list.
    :param windows: Rate limits per key.
    :param boot_seconds: From the order to the container's start.
    :param credit: First balance, USD.
    :param admin_token: Token of the emulator's own API; ``None`` for the one in the state
        directory, made when there is none.
    :param keep_pods: Leave containers running at an orderly end, as they are left by a crash.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    pods: str = "auto"
    programs: list[Path] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    page_size: int = 50
    windows: tuple[Window, ...] = DOCUMENTED_WINDOWS
    boot_seconds: float = 0.3
    credit: Decimal = Decimal(100)
    admin_token: str | None = None
    keep_pods: bool = False


def choose_runtime(config: Config) -> Runtime:
    """Return what pods are made of."""
    kind = config.pods
    if kind in ("auto", "docker"):
        from fakes.runpod.docker_pods import DockerRuntime, find_engine

        engine = find_engine()
        if engine is not None:
            return DockerRuntime(engine, config.state_dir / "pods")
        if kind == "docker":
            raise RuntimeError("no Docker Engine answers")
    if kind in ("auto", "process", "plain"):
        if Path(SSHD).exists() and shutil.which("ssh-keygen"):
            return ProcessRuntime(
                config.state_dir / "pods",
                programs=config.programs,
                entrypoint=config.entrypoint,
                may_isolate=kind != "plain",
            )
        if kind != "auto":
            raise RuntimeError(f"{SSHD} is missing: install openssh-server")
    return NoRuntime()


def read_admin_token(config: Config) -> str:
    """Return the token of the emulator's own API, for those who may read its state directory."""
    path = config.state_dir / "admin-token"
    if config.admin_token is None and path.exists():
        return path.read_text().strip()
    token = config.admin_token or secrets.token_urlsafe(24)
    path.touch(mode=0o600)
    path.write_text(token)
    return token


def build_app(config: Config) -> FastAPI:
    """Return the emulator as an ASGI application."""
    config.state_dir.mkdir(parents=True, exist_ok=True)
    store = Store(config.state_dir / "state.db")
    clock = Clock(float(store.get_value("clock_offset", 0)))
    options = Options(host=config.host, boot_seconds=config.boot_seconds, credit=config.credit)
    cloud = Cloud(store, clock, choose_runtime(config), options)

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        await cloud.open()
        yield
        await cloud.close(keep_pods=config.keep_pods)

    app = FastAPI(title="RunPod emulator", lifespan=live, docs_url=None, openapi_url=None)
    app.state.gateway = Gateway(cloud, RateLimit(config.windows))
    app.state.page_size = config.page_size
    app.state.admin_token = read_admin_token(config)
    app.include_router(admin.build_router())
    app.include_router(graph.build_router())
    app.include_router(rest.build_router())
    rest.add_error_handlers(app)
    app.add_middleware(Recorder, cloud=cloud)
    return app


class Recorder:
    """
    Remembers each request of the service's APIs, and breaks connections that are to break.

    :param app: The application behind it.
    :param cloud: The service.
    """

    def __init__(self, app: ASGIApp, cloud: Cloud) -> None:
        self._app = app
        self._cloud = cloud

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["path"].startswith(admin.PREFIX):
            await self._app(scope, receive, send)
            return
        at = self._cloud.clock.now()
        scope.setdefault("state", {})
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._record(scope, at, status)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Dropped:
            self._record(scope, at, 0)
            if (abort := ABORTS.get(scope["client"])) is not None:
                abort()
                # Otherwise the server would complain that nothing was answered.
                await asyncio.sleep(0)

    def _record(self, scope: Scope, at: float, status: int) -> None:
        api = "graphql" if scope["path"] == "/graphql" else "rest"
        state: dict[str, Any] = scope["state"]
        self._cloud.store.add_request(at, api, state.get("operation", "unknown"), status)


ABORTS: dict[Any, Callable[[], None]] = {}
"""How to break the connection of a client, by its address."""


class BreakableProtocol(H11Protocol):
    """HTTP whose connections can be broken from within a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember how to break it."""
        super().connection_made(transport)
        ABORTS[transport.get_extra_info("peername")] = transport.abort

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        ABORTS.pop(self.client, None)
        super().connection_lost(exc)


def build_server(config: Config) -> uvicorn.Server:
    """Return the emulator, ready to serve."""
    return uvicorn.Server(
        uvicorn.Config(
            build_app(config),
            host=config.host,
            port=config.port,
            log_level=os.environ.get("LOG_LEVEL", "warning").lower(),
            http=BreakableProtocol,
            ws="none",
            access_log=False,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
    )
