"""Training: the objective, the optimization, the journal, and the loop that joins them."""
