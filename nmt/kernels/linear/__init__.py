"""Products with weights in float32, bfloat16 and int8."""
