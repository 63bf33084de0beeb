"""
The program inside a rented pod.

A pod is a container of the trainer image with nothing else in it. ``touchstone-pod serve`` is its
first process: it lets the control plane log in, and ends the pod when nobody asks for it any more.
All other commands are called over SSH, each with one JSON document in and one out. The pod's one
attempt runs below a process of its own, so neither a broken connection nor a dead control plane
touches it.

What ``poll`` needs (``home``, ``lease``, ``state``, ``gpus``) imports the standard library alone:
it is started every few seconds beside a training, and should cost it nothing.
"""
