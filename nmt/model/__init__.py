"""The network: embeddings, encoder, attention, decoder, and the translator that they make up."""
