"""
The reference trainer: a long and a short model of daily market data for each prediction interval.

Importing the package loads nothing heavy; each command loads what it needs.
"""

__version__ = "0.1.0"
