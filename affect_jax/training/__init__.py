"""Training: set-up, loop, step, optimizers, schedules, checkpoint choice, test."""
