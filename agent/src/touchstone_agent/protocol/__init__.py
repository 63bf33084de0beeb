"""
What the control plane and an agent say to each other: messages, signatures, names, states.

Pure: nothing here opens a file, a socket or a clock. Both sides import it, so that a message
has one definition. Received messages tolerate added fields, because Airflow and the agents are
never upgraded in the same second; a new *major* version is refused.
"""
