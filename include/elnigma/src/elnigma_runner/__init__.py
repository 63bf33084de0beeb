"""
The entry point of the trainer image: runs the trainer, bounds it, and says how it ended.

Needs the standard library and ``psutil`` only: it starts at once and works with any trainer. What a
GPU does it reads by ``pynvml`` where that is installed.
"""

__version__ = "0.1.0"
