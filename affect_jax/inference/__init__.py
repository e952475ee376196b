"""From pictures to predictions: a model directory opened, its inputs read."""
