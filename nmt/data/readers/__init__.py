"""Text of every format as streams of examples: `pairs` of sentences and `labelled` documents."""
