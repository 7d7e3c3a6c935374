"""Scores of translations, alignments and labels, with intervals and tests of significance."""
