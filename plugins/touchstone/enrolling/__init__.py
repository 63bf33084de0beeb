"""Servers join, are upgraded and leave: by the command line, and by a DAG."""
