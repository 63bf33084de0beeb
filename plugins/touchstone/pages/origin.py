"""Which forms are ours: a page elsewhere can send a form along with the session's cookie, too."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, HTTPException


def require_same_origin(
    sec_fetch_site: Annotated[str | None, Header()] = None,
    origin: Annotated[str, Header()] = "",
    host: Annotated[str, Header()] = "",
) -> None:
    """
    Refuse a form that a page of another origin has sent.

    Browsers say where a form comes from, and no page can change that. What says nothing is refused:
    programs use the API.
    """
    if sec_fetch_site is not None:
        is_ours = sec_fetch_site == "same-origin"
    else:
        # A browser from before 2023.
        is_ours = bool(origin and host) and origin.partition("://")[2] == host
    if not is_ours:
        raise HTTPException(403, "this form was sent by another site, and nothing was done")
