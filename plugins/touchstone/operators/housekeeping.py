"""What is done from time to time, whatever is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from touchstone.settings import get_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReapOperator(BaseOperator):
    """
    Ends every pod of this environment that nobody waits for; see ``touchstone.hooks.pods.reaper``.

    :return: (XCom) What the look has shown: the proof that nothing is forgotten.
    """

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """
        Look once.

        :raises AirflowSkipException: If this installation rents nothing.
        """
        import asyncio
        from dataclasses import asdict

        from touchstone.hooks.pods.connect import connect_desk
        from touchstone.hooks.pods.reaper import reap

        settings = get_settings()
        if settings.runpod.conn_id is None:
            raise AirflowSkipException("this installation rents no pods")

        async def look() -> dict[str, Any]:
            return asdict(await reap(await connect_desk(settings)))

        proof = asyncio.run(look())
        self.log.info(
            "%s pods, %s ours, %s of them unknown; %s ended",
            *(proof["seen"], proof["ours"], proof["unknown"], len(proof["terminated"])),
        )
        return proof
