"""One pass over a split: predictions, and what they are worth."""
