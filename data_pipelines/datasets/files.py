"""Names of the files next to the records of a prepared data set."""

META_FILE = "affect.json"  # class names, groups, counts
REJECTED_FILE = "rejected.csv"  # what was rejected or left out and why


def labels_file(split: str) -> str:
    """Return the name of the file with class, group, valence and arousal of every record."""
    return f"labels-{split}.npz"
