"""Streams of sentence pairs and labelled documents, from every format."""
