"""Heat maps and HTML pages of attention weights, from plain arrays."""
