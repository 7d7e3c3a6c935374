"""Heat maps and the playground page of attention weights, from plain arrays."""
