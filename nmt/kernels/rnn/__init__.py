"""Simple recurrent unit: the tanh of a sum."""
