"""Stored features that tests share: well separated classes, and every column of the file."""

import io
import pathlib

import numpy as np

from data_pipelines.sources.features import FeatureFile

CLASSES = ("neutral", "happy", "sad")
SIZES = {"train": 48, "validation": 16, "test": 24}


def arrays(
    size: int = 8, sizes: dict[str, int] = SIZES, seed: int = 0, **more
) -> dict[str, np.ndarray]:
    """The arrays of a file, for `numpy.savez`; `more` are further attributes of `FeatureFile`."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((len(CLASSES), size))
    splits = {}
    for split, n in sizes.items():
        labels = np.arange(n, dtype=np.int32) % len(CLASSES)
        splits[split] = {
            "features": (centres[labels] + rng.standard_normal((n, size))).astype(np.float32),
            "expression": labels,
            "true_expression": labels,
            "expression_probs": np.eye(3, dtype=np.float32)[labels] * 0.7 + np.float32(0.1),
            "valence_arousal": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
            "group": np.arange(n, dtype=np.int32) // 4,
            "track": np.arange(n, dtype=np.int32) // 4,
            "attributes": rng.integers(0, 2, (n, 1), dtype=np.int32),
            "person": np.array([f"{split} {i // 8}" for i in range(n)]),
            "name": np.array([f"{split}/{i}.png" for i in range(n)]),
        }
    about = {"attribute_names": ("gender",), "attribute_values": (("m", "f"),), **more}
    return FeatureFile(CLASSES, splits, **about).to_arrays()


def plain(**options) -> dict[str, np.ndarray]:
    """The same with the needed arrays alone."""
    names = ("class_names", "features", "expression")
    made = arrays(**options)
    return {name: array for name, array in made.items() if name.rpartition("/")[2] in names}


def save(path: pathlib.Path, content: dict[str, np.ndarray] | None = None) -> str:
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays() if content is None else content))
    path.write_bytes(buffer.getvalue())
    return str(path)
