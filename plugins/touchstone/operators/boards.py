"""Draws an event's board beside each verdict, and puts it into MLflow; a verdict stands without."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.core.verdicts import build_board_question, list_verdict_metrics
from touchstone.core.waivers import build_params
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import TouchstoneError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from touchstone.core.records.events import Entry
    from touchstone.stores.records import RecordStore

log = logging.getLogger(__name__)


def publish_verdict(records: RecordStore, entry: Entry) -> None:
    """
    Publish the figures of an entry's verdict, and the board as it is now.

    One that was compared with nothing has none. Whatever goes wrong is told in the log: the
    verdict is on record, and clearing the step tries again.

    :param entry: With its verdict.
    """
    verdict = entry.verdict
    if verdict is None or verdict.edge is None or verdict.baseline is None:
        return
    try:
        question = _ask_about(records, entry.event, verdict.baseline, own=entry.label)
        _publish(
            question,
            key=f"{entry.submission_id}/verdict",
            attempt=f"{entry.label.rpartition(':')[2]}-{verdict.phase}",
            group=entry.submission_id,
            metrics=list_verdict_metrics(entry),
            params={"event": entry.event, "baseline": verdict.baseline}
            | build_params(entry.waived_columns),
        )
    except TouchstoneError as error:
        log.warning("%s: its verdict stands, its board was not drawn: %s", entry.label, error)


def publish_closing(records: RecordStore, event: str, baseline: str) -> None:
    """Publish the board of an event that was closed; see :func:`publish_verdict`."""
    try:
        _publish(
            _ask_about(records, event, baseline, own=None),
            key=f"event {event}/board",
            attempt="closing",
            group=f"event {event}",
            metrics={},
            params={"event": event, "baseline": baseline},
        )
    except TouchstoneError as error:
        log.warning("event %s: it is closed, its board was not drawn: %s", event, error)


def _ask_about(
    records: RecordStore, event: str, baseline: str, *, own: str | None
) -> dict[str, JsonValue]:
    from touchstone.stores.events import EventStore

    entries = EventStore(records, get_settings().events_table).list_entries(event).records
    return build_board_question(entries, baseline=baseline, own=own)


def _publish(
    question: Mapping[str, JsonValue],
    *,
    key: str,
    attempt: str,
    group: str,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
) -> None:
    from touchstone.confined.charts import ask_for_charts
    from touchstone.confined.judge import find_judge
    from touchstone.hooks.mlflow import CONTENT_TAG, MlflowHook

    settings = get_settings()
    drawn = ask_for_charts(find_judge(settings), question)
    content = json.dumps({"figures": drawn.figures, "notes": drawn.notes}, sort_keys=True)
    with tempfile.TemporaryDirectory(prefix="touchstone-board-") as name:
        folder = Path(name)
        (folder / "board.json").write_text(content)
        for chart, text in drawn.charts.items():
            (folder / f"{chart}.svg").write_text(text)
        MlflowHook(settings=settings).publish(
            task_key=key,
            attempt=attempt,
            model_group_id=group,
            params=params,
            metrics=metrics,
            # The same board again is the same run.
            tags={CONTENT_TAG: hashlib.sha256(content.encode()).hexdigest()},
            artifacts=folder,
        )
