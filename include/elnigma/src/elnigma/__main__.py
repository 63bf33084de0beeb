"""Lets ``python -m elnigma`` be the command."""

from elnigma.cli import run

run()
