"""What goes with a model when it leaves: the model card."""
