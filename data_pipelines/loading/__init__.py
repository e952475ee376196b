"""From sources to batches: sampling order, reading, worker processes."""
