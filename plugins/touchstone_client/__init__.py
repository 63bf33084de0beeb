"""
Touchstone for people's own scripts: submit, wait, fetch results, schedule, follow, cancel.

::

    from touchstone_client import Outcome, connect

    with connect() as touchstone:
        sent = touchstone.submit("features/momentum", intervals="1,5", key="nightly-2026-11-30")
        ending = touchstone.wait(sent)
        print(sent.submission_id, ending.status, ending.reason)
        for line in touchstone.get_results(sent.submission_id).value.results:
            print(line.interval, line.metrics)

:func:`connect` reads from the environment what it is not told. All that goes wrong is a
:class:`TouchstoneError`, whose text names the field and the way out. It is the same code as the
command line's, and imports nothing of Airflow's.
"""

from touchstone.client.answers import (
    Answer,
    ListedSubmission,
    Results,
    ShownResult,
    ShownSubmission,
    ShownTask,
    SubmissionAnswer,
    SubmissionList,
)
from touchstone.client.downloading import Fetched
from touchstone.client.errors import (
    Forbidden,
    LoginRefused,
    NotFound,
    NotInstalled,
    NotRegistered,
    Refused,
    StillRunning,
    Unreachable,
)
from touchstone.client.watch import Ending, Outcome, Snapshot
from touchstone.core.answers.acts import Ended
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError
from touchstone_client.installation import Touchstone, connect
from touchstone_client.sending import ScheduleFields, Submitted

__all__ = [
    "Answer",
    "ConfigurationError",
    "Ended",
    "Ending",
    "Fetched",
    "Forbidden",
    "ListedSubmission",
    "LoginRefused",
    "NotFound",
    "NotInstalled",
    "NotRegistered",
    "Outcome",
    "Refused",
    "Results",
    "ScheduleFields",
    "ShownResult",
    "ShownSubmission",
    "ShownTask",
    "Snapshot",
    "StillRunning",
    "SubmissionAnswer",
    "SubmissionList",
    "Submitted",
    "Touchstone",
    "TouchstoneError",
    "Unreachable",
    "connect",
]
