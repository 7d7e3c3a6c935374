"""Text: corpora, tokenizers and the encoded cache."""
