"""Contact sheets of the faces: `python -m data_pipelines.rendering.sheet`."""

import argparse
import pathlib
from typing import Any

import cv2
import numpy as np

from data_pipelines.rendering import fine_expressions
from data_pipelines.sources.synthetic import SyntheticFaces

_VIDEOS, _FINE_VIDEOS = 64, 512  # of one person, so that each shows every class
_LINE = 14  # height of a line of names, pixels


def classes_by_persons(people: int, side: int, seed: int) -> np.ndarray:
    """Return uint8 RGB: a row a class, a column a person."""
    faces = _one_of_each_class(people, _VIDEOS, seed, image_size=side)
    return np.hstack([np.vstack(images) for images in faces])


def fine_classes(people: int, side: int, seed: int, ambiguity: float) -> np.ndarray:
    """Return uint8 RGB: a strip a coarse expression, with a column a class, a row a person."""
    options = {"classes": "fg_emotions", "ambiguity": ambiguity}
    faces = _one_of_each_class(people, _FINE_VIDEOS, seed, image_size=side, **options)
    coarse = np.array(fine_expressions.COARSE_OF)
    rows: list[np.ndarray] = []
    for strip in range(len(fine_expressions.COARSE_NAMES)):
        classes = np.flatnonzero(coarse == strip).tolist()
        names = np.full((_LINE, len(classes) * side, 3), 255, np.uint8)
        for place, k in enumerate(classes):
            at = (place * side + 1, _LINE - 3)
            name = fine_expressions.CLASS_NAMES[k]
            cv2.putText(names, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.34, (0, 0, 0), 1, cv2.LINE_AA)
        rows += [names, *(np.hstack([images[k] for k in classes]) for images in faces)]
    width = max(row.shape[1] for row in rows)
    pads = (((0, 0), (0, width - row.shape[1]), (0, 0)) for row in rows)
    padded = (np.pad(r, pad, constant_values=255) for r, pad in zip(rows, pads, strict=True))
    return np.vstack(list(padded))


def _one_of_each_class(
    people: int, videos: int, seed: int, **options: Any
) -> list[list[np.ndarray]]:
    """Return, by person and class, the image of the first of a person's videos with the class."""
    source = SyntheticFaces(
        people * videos,
        seed=seed,
        split="test",
        frames_per_video=1,
        videos_per_person=videos,
        **options,
    )
    shown = source.true_labels.reshape(people, videos)
    first = [[int(np.argmax(own == k)) for k in range(source.num_classes)] for own in shown]
    return [[source[p * videos + k]["image"] for k in own] for p, own in enumerate(first)]


def faces_with_landmarks(rows: int, columns: int, side: int, seed: int) -> np.ndarray:
    """Return uint8 RGB: faces with their 68 landmarks as dots."""
    step = 16  # one face a person
    source = SyntheticFaces(rows * columns * step, seed=seed, split="test", image_size=side)
    faces = []
    for k in range(rows * columns):
        record = source[k * step]
        image = record["image"].copy()
        for x, y in np.round(record["landmarks"] * 16).astype(int).tolist():
            cv2.circle(image, (x, y), 22, (60, 255, 90), -1, cv2.LINE_AA, 4)
        faces.append(image)
    return np.vstack([np.hstack(faces[r * columns : (r + 1) * columns]) for r in range(rows)])


def _save(path: pathlib.Path, image: np.ndarray) -> None:
    # Five bits a colour: sensor noise below that only makes the file large.
    coarse = (image & 0xF8) | 4
    cv2.imwrite(str(path), coarse[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ambiguity", type=float, default=0.0, help="of the fine classes")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    sheet = classes_by_persons(people=8, side=96, seed=arguments.seed)
    _save(arguments.output / "synthetic_contact_sheet.png", sheet)
    fine = fine_classes(people=3, side=64, seed=arguments.seed, ambiguity=arguments.ambiguity)
    _save(arguments.output / "synthetic_fine_sheet.png", fine)
    dots = faces_with_landmarks(rows=2, columns=4, side=192, seed=arguments.seed)
    _save(arguments.output / "synthetic_landmarks.png", dots)


if __name__ == "__main__":
    main()
