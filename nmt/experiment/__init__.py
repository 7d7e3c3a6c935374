"""Where the rooms meet: train, translate, evaluate."""
