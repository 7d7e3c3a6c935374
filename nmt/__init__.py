"""Neural machine translation with attention: train it, run it, look at it."""

__version__ = "0.1.0"
