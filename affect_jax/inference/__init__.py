"""From images to predictions: a model directory opened, its inputs read."""
