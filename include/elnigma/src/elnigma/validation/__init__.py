"""Checks that a submitted module passes before anything is spent on it."""
