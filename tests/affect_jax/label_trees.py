"""Small label trees, and a user's file of one."""

import pathlib

from data_pipelines.hierarchies.tree import Hierarchy

# Three levels; the classes of one coarse class are apart in the order of their ids.
SIX = Hierarchy(
    name="six",
    fine=("worry", "pride", "panic", "wrath", "cheerful", "relief"),
    coarse=("fear", "anger", "joy"),
    coarse_of=(0, 2, 0, 1, 2, 2),
    poles=("bad", "good"),
    pole_of=(0, 0, 1),
)
# Two levels, in another order and spelling than the data of `tests` that use it.
FILE = """
[coarse]
positive = ["happiness"]
negative = ["Disgust", "angry", "sad"]
"""


def write(folder: pathlib.Path, text: str = FILE) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)
