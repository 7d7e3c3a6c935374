"""Trains, runs and explains neural machine translation with attention."""

__version__ = "0.1.0"
