"""What survives the emulator's own end: one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from fakes.runpod.catalog import list_first_capacity
from fakes.runpod.faults import Rule

SCHEMA = """
CREATE TABLE IF NOT EXISTS pods (
    seq INTEGER PRIMARY KEY, id TEXT UNIQUE, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spans (
    id INTEGER PRIMARY KEY, pod_id TEXT, name TEXT, kind TEXT, rate TEXT,
    started_at REAL NOT NULL, ended_at REAL);
CREATE INDEX IF NOT EXISTS spans_of_pod ON spans (pod_id);
CREATE TABLE IF NOT EXISTS capacity (
    gpu TEXT, cloud TEXT, data_center TEXT, free INTEGER, PRIMARY KEY (gpu, cloud, data_center));
CREATE TABLE IF NOT EXISTS rules (id TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS account (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS logs (
    id INTEGER PRIMARY KEY, pod_id TEXT, source TEXT, at REAL, line TEXT);
CREATE INDEX IF NOT EXISTS logs_of_pod ON logs (pod_id);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, at REAL, api TEXT, operation TEXT, status INTEGER);
"""


@dataclass(kw_only=True)
class PodRow:
    """A pod as the service knows it; times are seconds since 1970, money USD per hour."""

    id: str
    name: str
    image: str
    api: str
    api_key: str
    cloud: str
    data_center: str
    machine_id: str
    rate: str
    created_at: float
    gpu: str | None = None
    gpu_count: int = 0
    cpu: str | None = None
    vcpus: int = 0
    memory_gb: int = 16
    cuda_version: str | None = None
    min_cuda: str | None = None
    args: str = ""
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    disk: int = 10
    volume_gb: int = 0
    mount_path: str = "/workspace"
    network_volume: str | None = None
    ports: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    registry: str | None = None
    has_public_ip: bool = True
    status: str = "PROVISIONING"
    started_at: float | None = None
    changed_at: float = 0
    first_running_at: float | None = None
    ssh_port: int | None = None
    stale_ports: list[int] = field(default_factory=list)
    boots: int = 0
    runtime_handle: str | None = None
    hidden_until: float = 0
    terminate_at: float | None = None
    reappear_at: float | None = None
    terminated_at: float | None = None
    is_host_dead: bool = False
    done_faults: list[str] = field(default_factory=list)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_gone(self) -> bool:
        """Return whether it is terminated for good."""
        return self.status == "TERMINATED"

    @property
    def hourly(self) -> Decimal:
        """Return what it costs per hour while it has its machine."""
        return Decimal(self.rate)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time for which money is taken."""

    pod_id: str
    name: str
    kind: str
    rate: Decimal
    started_at: float
    ended_at: float | None


class Store:
    """
    All state of an emulator.

    :param path: The SQLite file; made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(SCHEMA)
        if not self._db.execute("SELECT 1 FROM capacity LIMIT 1").fetchone():
            self.set_capacity(list_first_capacity())

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Pods

    def save_pod(self, pod: PodRow) -> None:
        """Write a pod."""
        self._db.execute(
            "INSERT INTO pods (id, document) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET document = excluded.document",
            (pod.id, json.dumps(asdict(pod))),
        )

    def list_pods(self) -> list[PodRow]:
        """Return all pods there ever were, oldest first."""
        known = {item.name for item in fields(PodRow)}
        rows = self._db.execute("SELECT document FROM pods ORDER BY seq").fetchall()
        documents = [json.loads(document) for (document,) in rows]
        return [PodRow(**{k: v for k, v in each.items() if k in known}) for each in documents]

    # Bill

    def open_span(self, pod: PodRow, kind: str, rate: Decimal, at: float) -> None:
        """Begin to take money."""
        self._db.execute(
            "INSERT INTO spans (pod_id, name, kind, rate, started_at) VALUES (?, ?, ?, ?, ?)",
            (pod.id, pod.name, kind, str(rate), at),
        )

    def close_spans(self, pod_id: str, at: float) -> None:
        """Stop to take money for a pod."""
        self._db.execute(
            "UPDATE spans SET ended_at = ? WHERE pod_id = ? AND ended_at IS NULL", (at, pod_id)
        )

    def list_spans(self, pod_id: str | None = None) -> list[Span]:
        """Return the bill's lines, oldest first."""
        where, values = ("WHERE pod_id = ?", (pod_id,)) if pod_id else ("", ())
        rows = self._db.execute(
            f"SELECT pod_id, name, kind, rate, started_at, ended_at FROM spans {where} ORDER BY id",
            values,
        ).fetchall()
        return [
            Span(
                pod_id=row[0],
                name=row[1],
                kind=row[2],
                rate=Decimal(row[3]),
                started_at=row[4],
                ended_at=row[5],
            )
            for row in rows
        ]

    # Stock

    def set_capacity(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        """Set how many GPUs are free, for each (model, cloud, data centre) given."""
        self._db.executemany("INSERT OR REPLACE INTO capacity VALUES (?, ?, ?, ?)", list(rows))

    def change_capacity(self, gpu: str, cloud: str, data_center: str, by: int) -> None:
        """Take GPUs out of the stock or put them back."""
        self._db.execute(
            "UPDATE capacity SET free = free + ? WHERE gpu = ? AND cloud = ? AND data_center = ?",
            (by, gpu, cloud, data_center),
        )

    def list_capacity(self) -> list[tuple[str, str, str, int]]:
        """Return (model, cloud, data centre, free)."""
        return self._db.execute("SELECT * FROM capacity ORDER BY rowid").fetchall()

    # Faults

    def save_rule(self, rule: Rule) -> None:
        """Write a rule with its counters."""
        self._db.execute(
            "INSERT OR REPLACE INTO rules VALUES (?, ?)", (rule.id, json.dumps(asdict(rule)))
        )

    def delete_rule(self, rule_id: str) -> None:
        """Forget a rule."""
        self._db.execute("DELETE FROM rules WHERE id = ?", (rule_id,))

    def list_rules(self) -> list[Rule]:
        """Return all rules, oldest first."""
        rows = self._db.execute("SELECT document FROM rules ORDER BY rowid").fetchall()
        return [Rule(**json.loads(document)) for (document,) in rows]

    # Account

    def get_value(self, key: str, default: Any) -> Any:
        """Return a value of the account."""
        row = self._db.execute("SELECT value FROM account WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else default

    def set_value(self, key: str, value: Any) -> None:
        """Write a value of the account."""
        self._db.execute("INSERT OR REPLACE INTO account VALUES (?, ?)", (key, json.dumps(value)))

    # Logs

    def add_log(self, pod_id: str, source: str, at: float, line: str) -> None:
        """Append a line to a pod's log."""
        self._db.execute(
            "INSERT INTO logs (pod_id, source, at, line) VALUES (?, ?, ?, ?)",
            (pod_id, source, at, line),
        )

    def list_logs(self, pod_id: str, after_id: int = 0) -> list[tuple[int, str, float, str]]:
        """Return (id, source, time, line) of a pod's lines after one, oldest first."""
        return self._db.execute(
            "SELECT id, source, at, line FROM logs WHERE pod_id = ? AND id > ? ORDER BY id",
            (pod_id, after_id),
        ).fetchall()

    # Requests

    def add_request(self, at: float, api: str, operation: str, status: int) -> None:
        """Remember a request."""
        self._db.execute(
            "INSERT INTO requests (at, api, operation, status) VALUES (?, ?, ?, ?)",
            (at, api, operation, status),
        )

    def list_requests(self) -> list[tuple[float, str, str, int]]:
        """Return (time, API, operation, status), oldest first."""
        return self._db.execute(
            "SELECT at, api, operation, status FROM requests ORDER BY id"
        ).fetchall()
