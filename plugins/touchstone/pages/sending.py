"""What pages are given to start runs with. Tests replace it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from touchstone.services.sending import Sender


def get_sender() -> Sender:
    """Return what starts runs."""
    return Sender()


SenderDep = Annotated[Sender, Depends(get_sender)]
