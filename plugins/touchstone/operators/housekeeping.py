"""What a dispatcher does from time to time, asked for by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from touchstone.settings import get_settings

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import JsonValue


class ReapOperator(BaseOperator):
    """
    Ends every pod of this environment that no attempt needs, now.

    The dispatcher does so by itself (``touchstone.dispatcher.reaping``); this is for who wants to
    see it done. Both at once do no more than one of them.

    :return: (XCom) What the look has shown: the proof that nothing is forgotten.
    """

    def execute(self, context: Context) -> dict[str, JsonValue]:  # noqa: ARG002 - Airflow's signature
        """
        Look once.

        :raises AirflowSkipException: If this installation rents nothing.
        """
        import asyncio

        from touchstone.services.pods.reaper import look

        settings = get_settings()
        if settings.runpod.conn_id is None:
            raise AirflowSkipException("this installation rents no pods")

        proof = asyncio.run(look(settings))
        self.log.info(
            "%s pods, %s ours, %s of them unknown; %s ended",
            *(proof.seen, proof.ours, proof.unknown, len(proof.terminated)),
        )
        return proof.dump()
