"""Training: set-up, the loop, its step, optimizers, schedules, best checkpoint, final test."""
