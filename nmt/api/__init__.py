"""Python API: load models, translate, score, align, classify, train, evaluate."""
