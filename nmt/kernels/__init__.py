"""Operations: the equation, and fast implementations in C and Triton.

Functions take tensors and return tensors. `select` chooses the implementations of a run.
"""
