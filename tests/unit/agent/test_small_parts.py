"""Logs, and the errors of the queues and the engine."""

from __future__ import annotations

import json
import logging

import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from docker.errors import APIError, DockerException, NotFound

from touchstone_agent.adapters.docker import _translated
from touchstone_agent.adapters.sqs import Queues
from touchstone_agent.logs import JsonFormatter
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.settings import SqsSettings


def make_record(fields: dict[str, object], exc_info: object = None) -> logging.LogRecord:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "attempt.phase", (), exc_info)
    record.fields = fields
    return record


def test_a_log_line_is_json_with_its_action() -> None:
    line = json.loads(JsonFormatter().format(make_record({"attempt": "a", "phase": "running"})))

    assert (line["action"], line["attempt"], line["level"]) == ("attempt.phase", "a", "info")


def test_signed_parts_of_urls_are_left_out_even_of_tracebacks() -> None:
    url = "https://b.s3/k?X-Amz-Credential=AK&X-Amz-Signature=sesame&x-amz-security-token=tok"
    try:
        raise RuntimeError(f"failed: {url}")
    except RuntimeError as error:
        record = make_record({"url": url}, (type(error), error, error.__traceback__))

    text = JsonFormatter().format(record)

    assert "https://b.s3/k" in text
    assert not {"sesame", "AK", "tok"} & set(text.replace("=", " ").replace("&", " ").split())
    assert "sesame" not in text


def make_client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "ReceiveMessage")


class FailingClient:
    """Knows every queue and fails at everything else."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get_queue_url(self, **_: str) -> dict[str, str]:
        return {"QueueUrl": "http://q"}

    def _fail(self, **_: object) -> None:
        raise self._error

    receive_message = send_message = delete_message = _fail


@pytest.fixture
def make_queues(monkeypatch: pytest.MonkeyPatch):
    # Without any, AWS's library would look for credentials on the network.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def make(error: Exception) -> Queues:
        queues = Queues(SqsSettings(endpoint_url="http://localhost:1"))
        monkeypatch.setattr(queues, "_client", FailingClient(error))
        return queues

    return make


@pytest.mark.parametrize(
    ("error", "text", "retry_after"),
    [
        (make_client_error("AWS.SimpleQueueService.NonExistentQueue"), "enrol this server", 10),
        (make_client_error("QueueDoesNotExist"), "enrol this server", 10),
        (make_client_error("RequestThrottled"), "RequestThrottled", None),
        (make_client_error("AccessDenied"), "AccessDenied", None),
        (EndpointConnectionError(endpoint_url="http://q"), "EndpointConnectionError", None),
        (ReadTimeoutError(endpoint_url="http://q"), "ReadTimeoutError", None),
    ],
)
def test_no_error_of_a_queue_ends_the_agent(
    error: Exception, text: str, retry_after: float | None, make_queues
) -> None:
    with pytest.raises(TransientError, match=text) as caught:
        make_queues(error).receive("req-box.fifo")

    assert caught.value.retry_after == retry_after


def test_a_receipt_that_became_stale_is_no_error(make_queues) -> None:
    make_queues(make_client_error("ReceiptHandleIsInvalid")).delete("req-box.fifo", "r")


def make_api_error(status: int) -> APIError:
    response = requests.Response()
    response.status_code = status
    kind = NotFound if status == 404 else APIError
    return kind("m", response=response, explanation="why")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (make_api_error(404), PermanentError),
        (make_api_error(400), PermanentError),
        (make_api_error(500), TransientError),
        (DockerException("no socket"), TransientError),
        (requests.ConnectionError(), TransientError),
        (requests.ReadTimeout(), TransientError),
        (ConnectionRefusedError(), TransientError),
    ],
)
def test_errors_of_the_engine_are_told_by_what_to_do(
    error: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="container c"), _translated("container c"):
        raise error
