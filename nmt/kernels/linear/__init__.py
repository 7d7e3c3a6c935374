"""Products with weights: float32, bfloat16 and int8."""
