"""From an encoded image to the pixels of a batch: decode, frame, transform."""
