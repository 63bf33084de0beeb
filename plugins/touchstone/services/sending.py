"""Sends what people have asked for as a run of the DAG: once, however often they ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

from pydantic import JsonValue

from touchstone.core.conf import parse_conf
from touchstone.core.names import build_run_id
from touchstone.core.records.submissions import Submission
from touchstone.services.forward import find_newer_data
from touchstone.services.planning import Planner
from touchstone.services.replays import find_original
from touchstone.stores.data_sets import DataStore
from touchstone.stores.objects import ObjectStore
from touchstone_agent.protocol.errors import ConfigurationError

MORE_RUNS: Final = 20
"""So many ids of runs that were refused before they were on record are passed over."""


Keep = Callable[[str], str]
"""Takes the id that a run would have, and returns the one that it has."""


def _keep_nothing(run_id: str) -> str:
    return run_id


class SentRun(Protocol):
    """A run that there is."""

    @property
    def user(self) -> str:
        """Return who triggered it."""
        ...

    @property
    def conf(self) -> object:
        """Return its conf."""
        ...


class RunTaken(ConfigurationError):
    """There is a run of that id, and it is another one than was asked for."""


def _find_run(run_id: str) -> SentRun | None:
    from touchstone.airflow_db.starting import find_started_run

    return find_started_run(run_id)


def _start_run(run_id: str, conf: Mapping[str, JsonValue], by: str) -> bool:
    from touchstone.airflow_db.starting import start_run

    return start_run(run_id, conf, by=by)


def _start_run_of_page(run_id: str, conf: Mapping[str, JsonValue], by: str) -> bool:
    from touchstone.airflow_db.starting import start_run

    return start_run(run_id, conf, by=by, is_page=True)


def _find_states(run_ids: list[str]) -> Mapping[str, str]:
    from touchstone.airflow_db.runs import find_run_states

    return find_run_states(run_ids)


@dataclass(frozen=True, kw_only=True)
class Sender:
    """
    Starts runs; the same one twice is one.

    :param find_run: Returns a run of the DAG, by its id.
    :param start_run: Starts one for a user; returns whether there was none of that id.
    :param find_states: Returns the states of the runs that there are.
    """

    find_run: Callable[[str], SentRun | None] = _find_run
    start_run: Callable[[str, Mapping[str, JsonValue], str], bool] = _start_run
    find_states: Callable[[list[str]], Mapping[str, str]] = _find_states

    @classmethod
    def build(cls, *, is_page: bool) -> Self:
        """Return one that starts real runs, for people on a page or for programs."""
        return cls(start_run=_start_run_of_page if is_page else _start_run)

    def is_sent(self, run_id: str, conf: Mapping[str, JsonValue], *, by: str) -> bool:
        """
        Tell whether a run was started already.

        :raises RunTaken: If its id belongs to another one.
        """
        found = self.find_run(run_id)
        if found is None:
            return False
        if found.user != by or found.conf != dict(conf):
            raise RunTaken(
                f"run_id: {run_id} was started in the meantime, with other values; "
                "look at it, and send this again if you still want it"
            )
        return True

    def send(self, run_id: str, conf: Mapping[str, JsonValue], *, by: str) -> None:
        """
        Start a run, unless the very same one was started.

        :param run_id: The run's id.
        :param conf: Its conf, flat.
        :param by: Who asks, and is noted as the one who triggered it.
        :raises RunTaken: If its id belongs to another one.
        """
        if not self.is_sent(run_id, conf, by=by) and not self.start_run(run_id, conf, by):
            # Of two at once the first may have sent the same.
            self.is_sent(run_id, conf, by=by)

    def choose_run_id(self, candidates: list[str]) -> str:
        """
        Return the first id of which there is no run.

        :param candidates: Ids, the wanted one first.
        :raises ConfigurationError: If each of them is taken.
        """
        taken = self.find_states(candidates)
        for run_id in candidates:
            if run_id not in taken:
                return run_id
        raise ConfigurationError(f"submission_id: {candidates[0]} has too many runs; submit anew")


def list_run_ids(found: Submission) -> list[str]:
    """Return the ids that a submission's next run may have, the wanted one first."""
    first = max(2, len(found.run_ids) + 1)
    return [build_run_id(found.submission_id, number) for number in range(first, first + MORE_RUNS)]


def send_submission(
    submission_id: str,
    conf: Mapping[str, JsonValue],
    *,
    by: str,
    sender: Sender,
    planner: Planner,
    objects: ObjectStore,
    keep: Keep = _keep_nothing,
    is_own_id: bool = False,
) -> tuple[str, bool]:
    """
    Submit a module, with a schedule or without, or a replay; the same twice is one.

    :param submission_id: The id that it gets, which is its run's.
    :param conf: What is submitted, as a run's conf.
    :param by: Who submits.
    :param objects: Where uploaded archives are.
    :param keep: Writes the id down once all is checked, before anything starts.
    :param is_own_id: Whether the user has chosen the id. Its run may be gone from Airflow, and
        there is a record still: ``register`` knows the same content again, and no other.
    :return: The id, and whether it is new.
    :raises ConfigurationError: What ``register`` would refuse, with the field's name.
    :raises RunTaken: If the id belongs to another submission.
    """
    parsed = parse_conf(conf)
    if parsed.source is None and parsed.replay is None:
        raise ConfigurationError("source: give a git URL, or an uploaded archive")
    if sender.is_sent(submission_id, conf, by=by):
        return submission_id, False
    found = planner.records.find_submission(submission_id)
    if found is not None and not (is_own_id and found.submitted_by == by):
        raise RunTaken(f"run_id: {submission_id} is taken; send it again")
    if found is None and parsed.replay is not None:
        original, task = find_original(planner.records, parsed.replay, user=by)
        if parsed.replay.data_version is not None:
            data = DataStore(planner.records, planner.settings.events_table)
            find_newer_data(data, original, task, parsed.replay.data_version)
    elif found is None:
        planner.check_new(parsed, objects, user=by)
    kept = keep(submission_id)
    sender.send(kept, conf, by=by)
    return kept, kept == submission_id


def send_schedules(
    runs: Mapping[str, str],
    fields: Mapping[str, JsonValue],
    *,
    by: str,
    sender: Sender,
    planner: Planner,
    keep: Keep = _keep_nothing,
) -> dict[str, str]:
    """
    Schedule accepted submissions; the same twice is one.

    :param runs: The id of each one's run, by submission.
    :param fields: The schedule, flat, as a run's conf has it.
    :param by: Who schedules.
    :param keep: Writes each id down once all is checked, before anything starts.
    :return: The ids of the runs that are new, by submission.
    :raises ConfigurationError: What ``register`` would refuse, with the field's name.
    :raises RunTaken: If an id belongs to another run.
    """
    confs: dict[str, dict[str, JsonValue]] = {
        submission_id: {"submission_id": submission_id, **fields} for submission_id in runs
    }
    new = [
        submission_id
        for submission_id, run_id in runs.items()
        if not sender.is_sent(run_id, confs[submission_id], by=by)
    ]
    if new:
        # The world may have changed since it was planned.
        planner.plan(new, fields, user=by)
    started = {submission_id: keep(runs[submission_id]) for submission_id in new}
    for submission_id, run_id in started.items():
        sender.send(run_id, confs[submission_id], by=by)
    return started
