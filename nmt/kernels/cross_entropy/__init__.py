"""Cross-entropy with label smoothing, and log-probabilities."""
