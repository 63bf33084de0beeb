"""Mail to an installation's admins, through a real mail server."""

from __future__ import annotations

import json
import socket
from email import message_from_bytes, policy

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from touchstone.hooks.mail import mail_admins
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError

ADMINS = ("ada@example.org", "bob@example.org")


class Inbox(Message):
    """Keeps the messages that arrive."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def prepare_message(self, session, envelope):
        return message_from_bytes(envelope.content, policy=policy.default)

    def handle_message(self, message):
        self.messages.append(message)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def settings(monkeypatch, port):
    connection = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": port,
        "extra": {
            "from_email": "touchstone@example.org",
            "disable_ssl": True,
            "disable_tls": True,
            "retry_limit": 1,
        },
    }
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(connection))
    return Settings(env="dev", admin_mails=ADMINS, smtp_conn_id="mail")


def test_all_admins_are_written_to(settings, port):
    inbox = Inbox()
    server = Controller(inbox, hostname="127.0.0.1", port=port)
    server.start()
    try:
        mail_admins(settings, "RunPod's balance is low: $49.00", "under $50 & more")
    finally:
        server.stop()

    (message,) = inbox.messages
    assert message["To"] == ", ".join(ADMINS)
    assert message["From"] == "touchstone@example.org"
    assert message["Subject"] == "[Touchstone dev] RunPod's balance is low: $49.00"
    assert "under $50 &amp; more" in message.get_body().get_content()


def test_a_mail_server_that_is_away_is_worth_another_try(settings):
    with pytest.raises(TransientError, match="was not sent"):
        mail_admins(settings, "low", "under")


def test_a_missing_connection_is_worth_another_try_too(monkeypatch, settings):
    monkeypatch.delenv("AIRFLOW_CONN_MAIL")

    with pytest.raises(TransientError, match="was not sent"):
        mail_admins(settings, "low", "under")


def test_without_addresses_nothing_is_asked_of_any_server():
    mail_admins(Settings(smtp_conn_id="there is none"), "low", "under")
