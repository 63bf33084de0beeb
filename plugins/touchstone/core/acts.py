"""
What people do to our runs by Airflow's own pages and REST, in words. Pure.

Airflow's audit log does not do: it knows nothing of some routes (task instances in bulk, the task
state store), is written before a request is found to be allowed, and lets the request say which
run it is about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pydantic import TypeAdapter, ValidationError

DAG_IDS: Final = frozenset(
    {"touchstone", "touchstone_close_event", "touchstone_forward", "touchstone_housekeeping"}
)
RUNS_OF: Final = "touchstone"
"""The DAG whose runs are submissions'."""
CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
MAX_ACTS: Final = 50
"""Most submissions on record for one request; of more, only that there were more."""
MAX_RUN_ID: Final = 250
"""Longest run id that Airflow keeps."""

_API = "/api/v2/"
_ANY = "~"
_OTHERS = {"pools": "pool", "connections": "connection", "variables": "variable"}
_VERBS = {"POST": "made", "PUT": "changed", "PATCH": "changed", "DELETE": "deleted"}
_ODD = re.compile(r"[^\x20-\x7e]")
_BOOL = TypeAdapter(bool)

Given = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Act:
    """
    Something done to Airflow's side of our work.

    :param words: What was done, in the past tense.
    :param run_id: To which run; ``None`` if it is none in particular.
    :param is_deletion: Whether the run itself is gone by it.
    """

    words: str
    run_id: str | None = None
    is_deletion: bool = False


def concerns_us(method: str, path: str) -> bool:
    """
    Tell whether a request may change anything of ours, by its method and path alone.

    :param method: In capitals.
    :param path: As the server sees it, decoded.
    """
    return method in CHANGING and _is_ours(method, _find_parts(path))


def find_acts(method: str, path: str, body: bytes) -> list[Act]:
    """
    Say what a request to Airflow's API does to our DAGs, runs and tasks, if it is not refused.

    :param method: In capitals.
    :param path: As the server sees it, decoded.
    :param body: The request's body.
    :return: Nothing for what only reads, starts a run, or is none of our business.
    """
    if not concerns_us(method, path):
        return []
    parts, given = _find_parts(path), _read(body)
    told = _tell_other if parts[0] in _OTHERS else _tell_dag
    acts = list(islice(told(method, parts, given), MAX_ACTS + 1))
    if len(acts) <= MAX_ACTS:
        return acts
    return [*acts[:MAX_ACTS], Act(words=f"{acts[0].words}, and more than {MAX_ACTS} such things")]


def _find_parts(path: str) -> list[str]:
    _, _, rest = path.partition(_API)
    return [part for part in rest.split("/") if part]


def _is_ours(method: str, parts: Sequence[str]) -> bool:
    if parts and parts[0] in _OTHERS:
        return True
    if not parts or parts[0] != "dags" or _is_harmless(method, parts):
        return False
    return len(parts) == 1 or parts[1] in {*DAG_IDS, _ANY}


def _is_harmless(method: str, parts: Sequence[str]) -> bool:
    """Tell of a request for DAGs whether it reads, or does what every user may."""
    rest = parts[2:]
    if method == "POST" and rest in (
        ["dagRuns"],  # It triggers a run: what that one does is on record by itself.
        ["favorite"],
        ["unfavorite"],
        ["dagRuns", "list"],
    ):
        return True
    if len(rest) < 4 or not rest[2].startswith("task"):
        return False
    of_instance = rest[3:]
    # A run, a task and an XCom may be called by any of these names: only the place tells.
    return (
        (method == "POST" and of_instance == ["list"])
        or (method == "PATCH" and of_instance[1:][-1:] == ["dry_run"] and len(of_instance) <= 3)
        or (method == "PATCH" and of_instance[2:3] == ["hitlDetails"])
    )


def _read(body: bytes) -> Given:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}  # Airflow cannot read it either.
    return given if isinstance(given, Mapping) else {}


def _parse_bool(value: object) -> bool | None:
    """Return what Airflow takes for true or false, which is more than JSON's own."""
    try:
        return _BOOL.validate_python(value)
    except ValidationError:
        return None


def _tell_other(method: str, parts: Sequence[str], given: Given) -> Iterator[Act]:
    kind = _OTHERS[parts[0]]
    if len(parts) > 1:
        yield Act(words=f"{_VERBS[method]} the {kind} {_show('/'.join(parts[1:]))}")
    elif method == "POST":
        name = given.get("name") or given.get("connection_id") or given.get("key")
        yield Act(words=f"made the {kind} {_show(name)}")
    else:
        yield Act(words=f"changed several {parts[0]}")


def _tell_dag(method: str, parts: Sequence[str], given: Given) -> Iterator[Act]:
    dag_id, rest = parts[1] if len(parts) > 1 else _ANY, list(parts[2:])
    if not rest:
        which = "several DAGs" if dag_id == _ANY else f"the DAG {dag_id}"
        pausing = {True: "paused", False: "unpaused", None: "changed"}
        verb = pausing[_parse_bool(given.get("is_paused"))]
        yield Act(words=f"{'deleted' if method == 'DELETE' else verb} {which}")
    elif rest[0].startswith("clear"):
        if _parse_bool(given.get("dry_run", True)) is False:
            yield from _tell_clear(dag_id, given)
    elif rest == ["dagRuns"]:
        for action in _list(given.get("actions")):
            yield from _tell_runs_in_bulk(dag_id, action)
    elif rest[0] == "dagRuns":
        yield from _tell_run(method, dag_id, rest[1], rest[2:], given)
    else:
        yield Act(words=f"{method} {_show('/'.join(parts))}")


def _tell_clear(dag_id: str, given: Given) -> Iterator[Act]:
    if "task_ids" in given or "dag_run_id" in given:
        tasks = _name_tasks(given.get("task_ids"))
        yield from _tell_of(dag_id, given.get("dag_run_id"), f"cleared {tasks}")
        if given.get("include_past") or given.get("include_future"):
            yield Act(words=f"cleared {tasks}, also of other runs")
        return
    runs = _list(given.get("dag_runs"))
    for run in runs:
        yield from _tell_of(run.get("dag_id") or dag_id, run.get("dag_run_id"), "cleared the run")
    if not runs:
        yield from _tell_of(dag_id, None, "cleared runs")


def _tell_runs_in_bulk(dag_id: str, action: Given) -> Iterator[Act]:
    is_deletion = action.get("action") == "delete"
    for entity in _list_all(action.get("entities")):
        named = entity if isinstance(entity, Mapping) else {"dag_run_id": entity}
        words = "deleted the run" if is_deletion else _mark("the run", named.get("state"))
        of_dag = named.get("dag_id") or dag_id
        yield from _tell_of(of_dag, named.get("dag_run_id"), words, is_deletion)


def _tell_run(
    method: str, dag_id: str, run_id: str, rest: Sequence[str], given: Given
) -> Iterator[Act]:
    if not rest:
        is_deletion = method == "DELETE"
        words = "deleted the run" if is_deletion else _mark("the run", given.get("state"))
        yield from _tell_of(dag_id, run_id, words, is_deletion)
    elif rest == ["clear"]:
        if _parse_bool(given.get("dry_run", True)) is False:
            yield from _tell_of(dag_id, run_id, "cleared the run")
    elif rest == ["taskInstances"]:
        for action in _list(given.get("actions")):
            for entity in _list_all(action.get("entities")):
                yield from _tell_task_in_bulk(dag_id, run_id, action, entity)
    elif len(rest) > 1:
        yield from _tell_of(dag_id, run_id, _tell_task(method, rest[1], rest[2:], given))
        if given.get("include_past") or given.get("include_future"):
            yield Act(words=f"marked {_show(rest[1])}, also of other runs")
    else:
        yield from _tell_of(dag_id, run_id, f"{method} {_show('/'.join(rest))}")


def _tell_task_in_bulk(dag_id: str, run_id: str, action: Given, entity: object) -> Iterator[Act]:
    named = entity if isinstance(entity, Mapping) else {"task_id": entity}
    task = _name_tasks([[named.get("task_id"), named.get("map_index")]])
    is_deletion = action.get("action") == "delete"
    words = f"deleted {task}" if is_deletion else _mark(task, named.get("new_state"))
    of_dag = named.get("dag_id") or dag_id
    yield from _tell_of(of_dag, named.get("dag_run_id") or run_id, words)
    if named.get("include_past") or named.get("include_future"):
        yield Act(words=f"{words}, also of other runs")


def _tell_task(method: str, task_id: str, rest: Sequence[str], given: Given) -> str:
    task = _show(task_id)
    if rest[:1] == ["xcomEntries"]:
        return f"{_VERBS[method]} an XCom of {task}"
    if rest[:1] == ["state-store"]:
        return f"{_VERBS[method]} the stored state of {task}"
    if len(rest) > 1:
        return f"{method} {_show('/'.join(rest))} of {task}"
    if rest:
        task = f"{task}[{_show(rest[0])}]"
    return f"deleted {task}" if method == "DELETE" else _mark(task, given.get("new_state"))


def _tell_of(
    dag_id: object, run_id: object, words: str, is_deletion: bool = False
) -> Iterator[Act]:
    """Tell of one run of ours, or of what is done to nobody knows how many."""
    if dag_id not in (RUNS_OF, _ANY):
        if isinstance(dag_id, str) and dag_id in DAG_IDS:
            yield Act(words=f"{words} of {dag_id}")
    elif isinstance(run_id, str) and run_id != _ANY:
        yield Act(words=words, run_id=run_id[:MAX_RUN_ID], is_deletion=is_deletion)
    else:
        yield Act(words=f"{words}, of several runs")


def _mark(what: str, state: object) -> str:
    return f"marked {what} {_show(state)}" if state else f"changed {what}"


def _name_tasks(entries: object) -> str:
    names = []
    for entry in _list_all(entries):
        pair = entry if isinstance(entry, list) and len(entry) == 2 else [entry, None]
        is_mapped = isinstance(pair[1], int) and pair[1] >= 0
        names.append(_show(pair[0]) + (f"[{_show(pair[1])}]" if is_mapped else ""))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more if names else "all tasks"


def _list(value: object) -> Iterable[Given]:
    return [item for item in _list_all(value) if isinstance(item, Mapping)]


def _list_all(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _show(value: object) -> str:
    """Return something that a request names, short and on one line."""
    return _ODD.sub("?", str(value))[:80]
