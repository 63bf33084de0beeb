"""Mail to those who run an installation."""

from __future__ import annotations

import html
import smtplib

from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError


def mail_admins(settings: Settings, subject: str, text: str) -> None:
    """
    Write a mail to an installation's admins, if it names any.

    :param settings: Names the addresses, and the connection of the mail server.
    :param text: Plain text.
    :raises TransientError: If the mail could not be handed over: it was not sent.
    """
    if not settings.admin_mails:
        return
    from airflow.providers.smtp.hooks.smtp import SmtpHook
    from airflow.sdk.exceptions import AirflowException

    try:
        with SmtpHook(smtp_conn_id=settings.smtp_conn_id) as server:
            server.send_email_smtp(
                to=list(settings.admin_mails),
                subject=f"[Touchstone {settings.env}] {subject}",
                html_content=f"<p>{html.escape(text)}</p>",
            )
    except (AirflowException, smtplib.SMTPException, OSError) as error:
        raise TransientError(f"the mail {subject!r} was not sent: {error}") from error
