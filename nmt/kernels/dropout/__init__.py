"""Dropout.

The reference is `torch.nn.functional.dropout`.
"""
