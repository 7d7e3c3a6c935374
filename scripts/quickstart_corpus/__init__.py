"""Writes `data/quickstart` from a grammar and a lexicon of its own; README.md in this folder describes the modules."""
