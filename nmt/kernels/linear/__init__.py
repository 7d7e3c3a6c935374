"""Products with weights: float32, bfloat16 and int8.

oneDNN computes float32. Constant weights are packed once in a shorter format.
"""
