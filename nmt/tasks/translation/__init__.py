"""Translation: setup, loading, scores, forced decoding and pictures."""
