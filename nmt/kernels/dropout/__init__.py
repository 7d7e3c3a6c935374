"""Dropout; the reference is `torch.nn.functional.dropout`."""
