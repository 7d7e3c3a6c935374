"""Training loop, objectives, optimizers, schedules and metrics logging."""
