"""The training loop and its parts: step, optimizer, mixing of images."""
