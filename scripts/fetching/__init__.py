"""Fetches corpora into data/, from a folder or from their public homes; converts those that have another form there."""
