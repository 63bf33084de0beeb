"""Decisions of the agent: pure, no files, no sockets, no clock of their own."""
