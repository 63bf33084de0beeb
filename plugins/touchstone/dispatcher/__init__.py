"""The dispatcher: turns agents' events into task records and mends what nobody else will."""
