"""Measures speed and memory against the bound given by the machine's matrix products: `scripts/benchmark`."""
