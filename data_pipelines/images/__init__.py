"""From an encoded picture to the pixels of a batch: decode, frame, transform."""
