"""Simple recurrence: the tanh of a sum."""
