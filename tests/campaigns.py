"""Whether all of each long campaign runs, or a sample of it."""

from __future__ import annotations

import os

ALL_CAMPAIGNS = os.environ.get("TOUCHSTONE_CAMPAIGNS") == "full"
"""Set by ``make test-campaigns``; otherwise a sample of each long campaign is run."""
