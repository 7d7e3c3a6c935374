"""Classification of documents: setup, labels and scores."""
