"""Lists of wrong pictures made by hand."""

import logging

import numpy as np
import pytest

from data_pipelines import prepare
from data_pipelines.protocols import exclusion
from data_pipelines.schema import DataError
from data_pipelines.sources.make import make_sources
from tests.data_pipelines.made_images import encode, smooth, write_csv

NAMES = {"train": ["a/1.jpg", "b/2.jpg"], "test": ["c/1.jpg", "c/3.png", "c/frame 7"]}


def listed(tmp_path, text, names=NAMES):
    path = tmp_path / "wrong.txt"
    path.write_text(text, encoding="utf-8")
    marks = exclusion.find(names, path)
    return [p[i] for part, p in names.items() for i in np.flatnonzero(marks[part])]


def test_a_line_is_a_path_or_the_end_of_one(tmp_path):
    text = "\ufeff# by hand\n\n  2.jpg \n./c/1.jpg\n3\nframe 7\nc\\frame 7\n"
    assert listed(tmp_path, text) == ["b/2.jpg", "c/1.jpg", "c/3.png", "c/frame 7"]
    # The whole path goes before the end of another one.
    assert listed(tmp_path, "1.jpg", {"test": ["1.jpg", "c/1.jpg"]}) == ["1.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c/1.jpg\nd/9.jpg\n8\n", r"2 of 3 lines of .* name no image .*line 2: d/9.jpg; line 3"),
        ("2.jpg\n1.jpg", r"line 2 of .*, 1.jpg, names 2 images, .*a/1.jpg \(train\).*more of"),
        ("# nothing\n", "lists no image; give one path per line"),
    ],
)
def test_lines_that_cannot_be_meant_are_errors(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        exclusion.find(NAMES, tmp_path / "no.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.jpg")
    with pytest.raises(DataError, match="is not UTF-8"):
        exclusion.find(NAMES, tmp_path / "latin.txt")


@pytest.mark.parametrize("kind", ["manifest", "tfds"])
def test_validation_and_test_lose_what_is_listed(kind, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    splits = ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
    for k in range(12):
        (tmp_path / f"{k}.jpg").write_bytes(encode(smooth(16, 16, k)))
    (tmp_path / "12.jpg").write_bytes(b"")
    rows = [[f"{k}.jpg", ("sad", "happy")[k % 2], f"p{k}", s] for k, s in enumerate(splits)]
    rows.append(["12.jpg", "sad", "p12", "test"])
    write_csv(tmp_path / "set.csv", ["path", "expression", "person", "split"], rows)
    (tmp_path / "wrong.txt").write_text("1.jpg\n5.jpg\n8.jpg\n9\n12.jpg\n")
    config = {"source": kind, "manifest": str(tmp_path / "set.csv")}
    if kind == "tfds":
        prepare.prepare("manifest", tmp_path / "set.csv", tmp_path / "out")
        config |= {"dataset": "manifest", "data_dir": str(tmp_path / "out")}
    config["exclude"] = str(tmp_path / "wrong.txt")
    sources = make_sources(config)
    assert {k: len(s) for k, s in sources.items()} == {"train": 4, "validation": 3, "test": 2}
    assert "5 images listed; left out of validation 1, test 2; 1 of train are not" in caplog.text
    left = [sources["test"].describe(i) for i in range(2)]
    assert ["(10.jpg)" in left[0], "(11.jpg)" in left[1]] == [True, True]
    sources = make_sources(config | {"exclude_train": True})
    assert {k: len(s) for k, s in sources.items()} == {"train": 3, "validation": 3, "test": 2}


def test_synthetic_faces_have_no_names():
    with pytest.raises(DataError, match="synthetic faces have none"):
        make_sources({"source": "synthetic", "exclude": "wrong.txt"})
