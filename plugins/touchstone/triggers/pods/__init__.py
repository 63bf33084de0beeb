"""Drives an attempt in a pod: rent, connect, monitor, release."""
