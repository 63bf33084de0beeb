"""One JSON line per event on stderr, never with a signed URL or a key."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

_ROOT = "touchstone_agent"
# Errors of libraries carry the URL they failed on; a presigned one is a secret until it expires.
_SECRET = re.compile(r"(?i)\b(X-Amz-[A-Za-z-]+|Signature|AWSAccessKeyId|Policy)=[^&\s'\"]+")


def redact(text: str) -> str:
    """Return ``text`` without the signed parts of URLs."""
    return _SECRET.sub(r"\1=***", text)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "t": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "action": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, ensure_ascii=False))


class Log:
    """
    A logger of actions: ``log.info("attempt.phase", attempt=..., phase=...)``.

    :param name: Part of the agent that speaks.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def info(self, action: str, **fields: Any) -> None:
        """Log what is expected to happen."""
        self._logger.info(action, extra={"fields": fields})

    def warning(self, action: str, **fields: Any) -> None:
        """Log what somebody may want to look at."""
        self._logger.warning(action, extra={"fields": fields})

    def error(self, action: str, **fields: Any) -> None:
        """Log what somebody should look at."""
        self._logger.error(action, extra={"fields": fields})

    def exception(self, action: str, **fields: Any) -> None:
        """Log a defect with its traceback."""
        self._logger.exception(action, extra={"fields": fields})


def configure(level: str = "INFO") -> None:
    """Send the agent's log to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(level)
