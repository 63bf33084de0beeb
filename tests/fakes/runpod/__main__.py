"""``python -m fakes.runpod``: serves until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
from decimal import Decimal
from pathlib import Path

from fakes.runpod.app import Config, build_server, choose_runtime, read_admin_token
from fakes.runpod.gateway import DOCUMENTED_WINDOWS, Window
from fakes.runpod.store import Store

PODS = ("auto", "docker", "process", "plain", "none")
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def parse_windows(text: str) -> tuple[Window, ...]:
    """Return quotas such as ``minute=60,hour=3000``; ``none`` for no limit."""
    if text == "none":
        return ()
    if text == "documented":
        return DOCUMENTED_WINDOWS
    pairs = [part.partition("=") for part in text.split(",")]
    return tuple(
        Window(name=name, quota=int(quota), seconds=UNITS[name]) for name, _, quota in pairs
    )


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="fakes.runpod", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--pods", choices=PODS, default="auto")
    parser.add_argument("--programs", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--entrypoint", type=shlex.split, default=[], metavar="COMMAND")
    parser.add_argument("--page-size", type=int, default=50)
    parser.add_argument("--rate-limit", type=parse_windows, default=DOCUMENTED_WINDOWS)
    parser.add_argument("--boot-seconds", type=float, default=0.3)
    parser.add_argument("--credit", type=Decimal, default=Decimal(100))
    parser.add_argument("--admin-token", default=os.environ.get("RUNPOD_EMULATOR_TOKEN"))
    parser.add_argument("--keep-pods", action="store_true", help="leave pods running at the end")
    parser.add_argument("--sweep", action="store_true", help="end pods a crash has left, and exit")
    return parser.parse_args()


async def sweep(config: Config) -> None:
    """End the containers of all pods of a state directory whose emulator is gone."""
    runtime = choose_runtime(config)
    store = Store(config.state_dir / "state.db")
    for pod in store.list_pods():
        await runtime.remove(pod)
    store.close()


def main() -> None:
    """Serve."""
    given = parse_arguments()
    config = Config(
        state_dir=given.state_dir,
        host=given.host,
        port=given.port,
        pods=given.pods,
        programs=given.programs,
        entrypoint=given.entrypoint,
        page_size=given.page_size,
        windows=given.rate_limit,
        boot_seconds=given.boot_seconds,
        credit=given.credit,
        admin_token=given.admin_token,
        keep_pods=given.keep_pods,
    )
    config.state_dir.mkdir(parents=True, exist_ok=True)
    if given.sweep:
        asyncio.run(sweep(config))
        return
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper())
    print(f"RunPod emulator on http://{given.host}:{given.port}", flush=True)
    print(f"its own API below /_emulator, token in {config.state_dir / 'admin-token'}", flush=True)
    read_admin_token(config)
    build_server(config).run()


if __name__ == "__main__":
    main()
