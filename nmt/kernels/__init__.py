"""Inner loops: tensors in, tensors out. Each has a reference, the equations as they are written, and a fast path."""
