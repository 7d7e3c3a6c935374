"""Measures the cost of a large corpus and of several processes, each in its own process, for docs/scaling.md."""
