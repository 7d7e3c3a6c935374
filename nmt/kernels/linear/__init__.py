"""Products with weights: in float32 by oneDNN, and with weights that are constant in shorter formats."""
