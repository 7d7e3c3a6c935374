"""Text of every format as streams of examples: `corpora` of pairs and `labelled` documents."""
