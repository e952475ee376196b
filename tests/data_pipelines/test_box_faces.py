"""The manifest of the model in the box: photos cut round their faces, drawings, no test person."""

import csv
import json

import cv2
import numpy as np
import pytest

from data_pipelines import box_faces
from data_pipelines.schema import DataError
from data_pipelines.sources import make


@pytest.fixture
def photos(tmp_path):
    """Thirty grey photos of thirty persons with a white square as a face; the last shows none."""
    rows = []
    for i in range(30):
        image = np.full((120, 200), 60, np.uint8)
        if i < 29:
            image[20:80, 100:150] = 255
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        rows.append((f"{i}.png", ("happy", "sad")[i % 2], f"person {i}"))
    with open(tmp_path / "photos.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "expression", "person"), *rows])
    return tmp_path / "photos.csv"


def find(image):
    where = np.argwhere(image.reshape(*image.shape[:2], -1)[..., 0] > 200)
    if not len(where):
        return None
    (top, left), (bottom, right) = where.min(0), where.max(0) + 1
    return np.array([left, top, right, bottom], np.float32)


def test_boxes_follow_the_faces_and_test_persons_are_left_out(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(box_faces, "DRAWN", {"train": 3, "validation": 1, "test": 1})
    count, drawn = box_faces.write(photos, tmp_path / "box", find)
    assert drawn == 5
    with open(tmp_path / "box" / box_faces.MANIFEST, newline="") as file:
        rows = list(csv.DictReader(file))
    taken = [row for row in rows if row["path"].startswith("photos/")]
    splits = make.make_sources({"source": "manifest", "manifest": str(photos), "crop": "whole"})
    test = set(splits["test"].persons)
    assert test and not test & {row["person"] for row in taken}
    assert count == len(taken) == 30 - len(test | {"person 29"})
    for row in taken:
        image = cv2.imread(str(tmp_path / "box" / row["path"]), cv2.IMREAD_GRAYSCALE)
        x0, y0, x1, y1 = (float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        inside = image[round(y0) + 2 : round(y1) - 2, round(x0) + 2 : round(x1) - 2]
        assert inside.min() > 230 and image[0, 0] < 80
        assert row["split"] in ("train", "validation") and not row["valence"]
    for row in rows[len(taken) :]:
        assert not row["expression"] and -1 <= float(row["valence"]) <= 1
        assert np.shape(json.loads(row["landmarks"])) == (68, 2)
    box = make.make_sources({"source": "manifest", "manifest": str(tmp_path / "box/box.csv")})
    assert sum(map(len, box.values())) == len(rows)


def test_a_run_that_is_stopped_leaves_nothing(photos, tmp_path):
    def stopped(image):
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        box_faces.write(photos, tmp_path / "box", stopped)
    assert sorted(tmp_path.iterdir()) == before


def test_photos_without_persons_are_an_error(photos, tmp_path):
    nameless = tmp_path / "nameless.csv"
    header, *rest = photos.read_text().splitlines()
    nameless.write_text("\n".join([header.replace("person", "subject"), *rest]) + "\n")
    with pytest.raises(DataError, match=r"nameless.csv lacks the column person"):
        box_faces.write(nameless, tmp_path / "box", find)
    assert not (tmp_path / "box").exists()


def test_a_folder_that_exists_is_not_written_to(photos, tmp_path):
    with pytest.raises(DataError, match="exists; remove it"):
        box_faces.write(photos, tmp_path, find)
