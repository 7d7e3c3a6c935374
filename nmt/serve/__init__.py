"""HTTP server: JSON API, LibreTranslate's API, batches, limits."""
