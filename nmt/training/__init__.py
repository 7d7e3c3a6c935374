"""Training: objectives, optimizers, schedules, metrics, and the loop."""
