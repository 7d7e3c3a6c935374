"""Pictures of where a system looked: a matrix for each sentence, and a page to step through."""
