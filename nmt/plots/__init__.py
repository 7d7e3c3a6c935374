"""Pictures of attention: a matrix for each sentence, and a page to step through. Neither knows what made the weights."""
