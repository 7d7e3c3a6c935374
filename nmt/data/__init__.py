"""Readers, tokenizers, lexicons, encoded corpora and batches."""
