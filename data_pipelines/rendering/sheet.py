"""Contact sheets of the faces: `python -m data_pipelines.rendering.sheet`."""

import argparse
import pathlib

import cv2
import numpy as np

from data_pipelines.sources.synthetic import SyntheticFaces

_VIDEOS = 64  # of one person, so that each shows every class


def classes_by_persons(people: int, side: int, seed: int) -> np.ndarray:
    """Return uint8 RGB: a row a class, a column a person."""
    source = SyntheticFaces(
        people * _VIDEOS,
        seed=seed,
        split="test",
        frames_per_video=1,
        videos_per_person=_VIDEOS,
        image_size=side,
    )
    shown = source.true_labels.reshape(people, _VIDEOS)
    columns = []
    for person in range(people):
        first = [int(np.argmax(shown[person] == k)) for k in range(source.num_classes)]
        columns.append(np.vstack([source[person * _VIDEOS + k]["image"] for k in first]))
    return np.hstack(columns)


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
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    sheet = classes_by_persons(people=8, side=96, seed=arguments.seed)
    _save(arguments.output / "synthetic_contact_sheet.png", sheet)
    dots = faces_with_landmarks(rows=2, columns=4, side=192, seed=arguments.seed)
    _save(arguments.output / "synthetic_landmarks.png", dots)


if __name__ == "__main__":
    main()
