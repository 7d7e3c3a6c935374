"""Networks: embeddings, encoder, decoder, translator and classifier."""
