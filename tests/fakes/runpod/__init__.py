"""
A RunPod of our own on the loopback interface: its APIs, its pods, its bill and its bad days.

Start it with ``PYTHONPATH=tests python -m fakes.runpod --port 8090 --state-dir DIR``.
"""
