"""Text: readers, tokenizers, lexicons, the cache of encoded text, and batches."""
