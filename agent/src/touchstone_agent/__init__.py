"""The daemon that runs Touchstone attempts on an on-prem server, and the protocol it speaks."""
