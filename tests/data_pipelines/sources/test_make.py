import json
import logging

import numpy as np
import pytest

from data_pipelines.protocols.persons import fold_of
from data_pipelines.schema import DataError, Source, TooManyBadRecords
from data_pipelines.sources.make import make_sources
from tests.data_pipelines.made_images import (
    check_record,
    encode,
    folder_source,
    manifest_source,
    smooth,
    write_csv,
)

PICTURE = encode(smooth(8, 8))
LANDMARKS = np.arange(136, dtype=np.float32) / 2


@pytest.fixture
def photos(tmp_path):
    """A folder with a.jpg ... and a function that writes a manifest beside them."""
    for k in range(121):
        (tmp_path / f"{k}.jpg").write_bytes(PICTURE)

    def manifest(header, rows, name="set.csv"):
        path = tmp_path / name
        write_csv(path, header.split(","), rows)
        return path

    return manifest


def jsonl(tmp_path, rows):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def test_a_manifest_is_a_source_of_checked_records(photos):
    rows = [["0.jpg", "happiness", 0.5, -0.25, "ann", "1 2 30 40"], ["1.jpg", "", "", -2, "", ""]]
    source = manifest_source(photos("path,expression,valence,arousal,person,box", rows))
    assert isinstance(source, Source)
    assert len(source) == 2 and source.class_names == ("happiness",)
    assert source.has == {"expression", "valence_arousal"}
    first, second = source[0], source[1]
    for record in (first, second):
        check_record(record, source.num_classes)
    assert first["image"] == PICTURE and first["expression"] == 0
    np.testing.assert_array_equal(first["valence_arousal"], np.float32([0.5, -0.25]))
    np.testing.assert_array_equal(first["box"], np.float32([1, 2, 30, 40]))
    assert second["expression"] == -1 and np.isnan(second["valence_arousal"]).all()
    assert np.isnan(second["box"]).all() and np.isnan(second["landmarks"]).all()
    assert source.describe(1).endswith("set.csv:3 (1.jpg)")
    np.testing.assert_array_equal(source.labels, [0, -1])
    np.testing.assert_array_equal(source.groups, [0, -1])


def test_jsonl_equals_csv(photos, tmp_path):
    landmarks = LANDMARKS.reshape(68, 2)
    header = "path,expression,valence,arousal,landmarks,video,gender"
    flat = " ".join(map(str, LANDMARKS))
    one = manifest_source(photos(header, [["0.jpg", "sad", 0, 1, flat, "v1", "f"]]))
    fields = ["0.jpg", "sad", 0, 1, landmarks.tolist(), "v1", "f"]
    two = manifest_source(jsonl(tmp_path, [dict(zip(header.split(","), fields, strict=True))]))
    a, b = one[0], two[0]
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    np.testing.assert_array_equal(a["landmarks"], landmarks)
    assert one.has == two.has >= {"landmarks", "attributes"}


def test_frames_of_a_video_stand_in_order(photos):
    header = "path,expression,person,video,frame"
    rows = [
        ["0.jpg", "sad", "ann", "v", 10],
        ["1.jpg", "sad", "bob", "v", 0],
        ["2.jpg", "sad", "ann", "v", 9],
        ["3.jpg", "sad", "ann", "", ""],
        ["4.jpg", "sad", "bob", "v", 1],
    ]
    source = manifest_source(photos(header, rows))
    # Two persons may name their videos alike; a still belongs to none.
    assert [source.paths[i] for i in range(5)] == ["2.jpg", "0.jpg", "1.jpg", "4.jpg", "3.jpg"]
    np.testing.assert_array_equal(source.tracks, [0, 0, 1, 1, -1])
    assert source.describe(0).endswith("set.csv:4 (2.jpg)")
    unnumbered = manifest_source(
        photos("path,expression,clip", [[r[0], "sad", r[3]] for r in rows])
    )
    np.testing.assert_array_equal(unnumbered.tracks, [0, 0, 0, -1, 0])
    assert unnumbered.paths[0] == "0.jpg"
    lost = [[*rows[0][:4], ""], *rows[1:]]
    left = manifest_source(photos(header, lost), max_bad_fraction=0.5)
    assert [left.paths[i] for i in range(4)] == ["1.jpg", "4.jpg", "2.jpg", "3.jpg"]
    with pytest.raises(TooManyBadRecords, match=r"0\.jpg: no frame number, which other rows"):
        manifest_source(photos(header, lost), max_bad_fraction=0.0)
    with pytest.raises(TooManyBadRecords, match="frame 'x' is not a number"):
        manifest_source(photos(header, [["0.jpg", "sad", "ann", "v", "x"]]))


@pytest.mark.parametrize("text", ["[0, 1, 2, 3]", "0;1;2;3", "0 1  2 3", "(0,1),(2,3)"])
def test_boxes_in_many_spellings(photos, text):
    source = manifest_source(photos("path,expression,box", [["0.jpg", "sad", text]]))
    np.testing.assert_array_equal(source[0]["box"], [0, 1, 2, 3])


def test_boxes_in_four_columns(photos):
    source = manifest_source(photos("path,expression,x0,y0,x1,y1", [["0.jpg", "sad", 0, 1, 2, 3]]))
    np.testing.assert_array_equal(source[0]["box"], [0, 1, 2, 3])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_byte_order_marks_and_capitals(tmp_path, delimiter):
    (tmp_path / "0.jpg").write_bytes(PICTURE)
    text = delimiter.join(["Path", " Expression "]) + "\r\n" + delimiter.join(["0.jpg", "Sad"])
    (tmp_path / "m.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert manifest_source(tmp_path / "m.csv").class_names == ("Sad",)


BAD_ROWS = {
    "missing file": (["nowhere.jpg", "sad", 0, 0, ""], "missing file"),
    "zero bytes": (["empty.jpg", "sad", 0, 0, ""], "zero bytes"),
    "empty path": (["", "sad", 0, 0, ""], "path is empty"),
    "unknown class": (["0.jpg", "hapy", 0, 0, ""], "unknown class name 'hapy'"),
    "id out of range": (["0.jpg", "42", 0, 0, ""], "class id '42'"),
    "negative id": (["0.jpg", "-3", 0, 0, ""], "class id '-3'"),
    "nan": (["0.jpg", "sad", "nan", 0, ""], "valence is nan"),
    "infinite": (["0.jpg", "sad", 0, "inf", ""], "arousal is inf"),
    "no number": (["0.jpg", "sad", "high", 0, ""], "valence 'high' is not a number"),
    "valence out of range": (["0.jpg", "sad", 1.01, 0, ""], "valence 1.01 is outside"),
    "arousal out of range": (["0.jpg", "sad", 0, -2.5, ""], "arousal -2.5 is outside"),
    "short landmarks": (["0.jpg", "sad", 0, 0, "1 2 3"], "landmarks holds 3 numbers"),
    "bad landmarks": (["0.jpg", "sad", 0, 0, " ".join(["x"] * 136)], "not a number"),
    "nan landmarks": (["0.jpg", "sad", 0, 0, " ".join(["nan"] * 136)], "landmarks is nan"),
    "too many cells": (["0.jpg", "sad", 0, 0, "", "surplus"], "6 cells"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_counted_named_and_left_out(photos, tmp_path, caplog, name):
    row, reason = BAD_ROWS[name]
    (tmp_path / "empty.jpg").write_bytes(b"")
    good = [[f"{k}.jpg", ("happy", "sad")[k % 2], 0.1, 0.2, ""] for k in range(12)]
    path = photos("path,expression,valence,arousal,landmarks", [*good[:3], row, *good[3:]])
    source = manifest_source(path)
    assert len(source) == 12 and source.class_names == ("happy", "sad")
    ((line, named, why),) = source.bad_rows
    assert line == 5 and named == str(row[0]) * (name != "too many cells") and reason in why
    messages = [r.message for r in caplog.records if "left out" in r.message]
    assert len(messages) == 1 and "set.csv:5" in messages[0] and reason in messages[0]


def test_bad_lines_of_jsonl(photos, tmp_path):
    rows = [{"path": f"{k}.jpg", "expression": "sad"} for k in range(20)]
    source = manifest_source(jsonl(tmp_path, [*rows, '{"path": "0.jpg", ', "[1, 2]"]))
    assert [(row, why.split(" (")[0]) for row, _, why in source.bad_rows] == [
        (21, "not JSON"),
        (22, "not a JSON object; each line must be one"),
    ]


def test_too_many_bad_rows_stop_before_training(photos, caplog):
    rows = [[f"{k}.jpg", "sad"] for k in range(20)] + [["gone.jpg", "sad"]] * 30
    path = photos("path,expression", rows)
    with pytest.raises(
        TooManyBadRecords, match=r"30 of 50 rows cannot be used, .*max_bad_fraction = 0\.1"
    ):
        manifest_source(path)
    assert sum("left out" in r.message for r in caplog.records) == 21  # 20 named, then a count
    assert len(manifest_source(path, max_bad_fraction=0.7)) == 20


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("path,expression", [], "holds no rows"),
        ("file,expression", [["0.jpg", "sad"]], "no column `path`"),
        ("path,person", [["0.jpg", "ann"]], "has no label"),
        ("path,valence", [["0.jpg", 0.5]], "only one of `valence` and `arousal`"),
    ],
)
def test_manifests_that_cannot_work(photos, header, rows, message):
    with pytest.raises(DataError, match=message):
        manifest_source(photos(header, rows))


def test_manifests_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        manifest_source(tmp_path / "no.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="is empty"):
        manifest_source(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes("path,expression\nä.jpg,sad\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        manifest_source(tmp_path / "latin.csv")
    with pytest.raises(DataError, match=r"data\.manifest is empty"):
        make_sources({"source": "manifest"})
    with pytest.raises(DataError, match="no column `path`"):
        manifest_source(jsonl(tmp_path, [{"file": "a"}]))


def named(photos, names, **options):
    rows = [[f"{k % 30}.jpg", name] for k, name in enumerate(names)]
    return manifest_source(photos("path,expression", rows), **options)


def test_inferred_classes(photos):
    assert named(photos, ["anger", "neutral", "Happiness"]).class_names == (
        "neutral",
        "Happiness",
        "anger",
    )
    assert named(photos, ["tense", "calm"] * 5).class_names == ("calm", "tense")
    ids = named(photos, ["0", "2", "1", "2.0"])
    assert ids.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(ids.labels, [0, 2, 1, 2])
    mixed = named(photos, ["sad", "sadness", "sad", "happy"])
    assert mixed.class_names == ("happy", "sad")
    np.testing.assert_array_equal(mixed.labels, [1, 1, 1, 0])


def test_configured_classes(photos):
    source = named(photos, ["happiness", "3", "neutral"], classes="affectnet8")
    np.testing.assert_array_equal(source.labels, [1, 3, 0])
    assert source.num_classes == 8
    with pytest.raises(TooManyBadRecords, match="unknown class name 'fear'"):
        named(photos, ["fear", "calm"], classes="calm,tense")


def test_an_absent_class_is_warned_of(photos, caplog):
    named(photos, ["calm"] * 5, classes=("calm", "tense"))
    assert "no image of class tense" in caplog.text


def test_attributes_get_codes_and_ages_get_bands(photos):
    rows = [["0.jpg", "sad", "f", 33], ["1.jpg", "sad", "m", 71], ["2.jpg", "sad", "", ""]]
    source = manifest_source(photos("path,expression,gender,age", rows))
    assert source.attribute_names == ("gender", "age")
    assert source.attribute_values == (("f", "m"), ("0-3", "4-19", "20-39", "40-69", "70+"))
    codes = np.array([source[k]["attributes"] for k in range(3)])
    np.testing.assert_array_equal(codes, [[0, 2], [1, 4], [-1, -1]])
    banded = manifest_source(photos("path,expression,age", [["0.jpg", "sad", 3]]))
    assert banded.attribute_values == (("3",),)


def test_a_photo_that_vanishes_raises(photos, tmp_path):
    source = named(photos, ["sad", "sad"])
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        source[1]


def tree(tmp_path, *files):
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)
    return tmp_path


def test_a_folder_per_class(tmp_path):
    folder = tree(tmp_path, "sad/a.jpg", "happy/b.PNG", "happy/ann/c.jpg", "happy/notes.txt")
    (folder / "happy" / ".hidden.jpg").write_bytes(b"")
    source = folder_source(folder)
    assert source.class_names == ("happy", "sad")
    assert [source.paths[k] for k in range(3)] == ["happy/b.PNG", "happy/ann/c.jpg", "sad/a.jpg"]
    np.testing.assert_array_equal(source.labels, [0, 0, 1])
    assert source.persons == ["happy/b.PNG", "ann", "sad/a.jpg"]
    assert source.describe(2).endswith("(sad/a.jpg)")


def test_a_folder_with_splits(tmp_path):
    folder = tree(
        tmp_path, "train/sad/a.jpg", "train/happy/b.jpg", "val/sad/c.jpg", "test/sad/d.jpg"
    )
    made = make_sources({"source": "folder", "folder": str(folder)})
    assert {k: [v.paths[i] for i in range(len(v))] for k, v in made.items()} == {
        "train": ["train/happy/b.jpg", "train/sad/a.jpg"],
        "validation": ["val/sad/c.jpg"],
        "test": ["test/sad/d.jpg"],
    }


def test_folders_that_cannot_work(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        folder_source(tmp_path / "no")
    tree(tmp_path, "loose.jpg", "notes/readme.txt")
    with pytest.raises(DataError, match=r"expected .*CLASS/NAME.jpg .* found loose.jpg, notes"):
        folder_source(tmp_path)
    with pytest.raises(TooManyBadRecords, match="unknown class name 'lost'"):
        folder_source(tree(tmp_path / "x", "lost/a.jpg"), classes="calm,tense")
    with pytest.raises(DataError, match=r"data\.folder is empty"):
        make_sources({"source": "folder"})


PEOPLE = [[f"{k}.jpg", ("sad", "happy")[k % 2], f"p{k // 3}"] for k in range(120)]


def test_splits_are_disjoint_by_person_and_follow_the_hash(photos):
    made = make_sources({"manifest": str(photos("path,expression,person", PEOPLE))})
    people = {name: set(source.persons) for name, source in made.items()}
    assert sum(map(len, people.values())) == 40 and all(people.values())
    assert sum(map(len, made.values())) == 120

    assert people["test"] == {f"p{k}" for k in range(40) if fold_of(f"p{k}", 4) == 1}
    assert len(people["validation"]) == round(0.15 * (40 - len(people["test"])))


def test_split_settings_are_read(photos):
    path = str(photos("path,expression,person", PEOPLE))
    options = {"manifest": path, "folds": 5, "test_fold": 0, "validation_fraction": 0.0}
    made = make_sources(options)
    assert len(made["validation"]) == 0
    assert set(made["test"].persons) != set(make_sources({"manifest": path})["test"].persons)
    one, two = (make_sources({"manifest": path, "split_seed": s})["validation"] for s in (0, 1))
    assert set(one.persons) != set(two.persons)


def test_a_split_column_is_followed(photos, caplog):
    rows = [[*row, ("train", "valid", "test")[k % 3]] for k, row in enumerate(PEOPLE)]
    made = make_sources({"manifest": str(photos("path,expression,person,split", rows))})
    assert [len(made[k]) for k in ("train", "validation", "test")] == [40, 40, 40]
    assert "40 persons are in more than one split" in caplog.text
    alone = [[*row, "train"] for row in PEOPLE]
    made = make_sources({"manifest": str(photos("path,expression,person,split", alone))})
    assert all(len(source) for source in made.values())
    assert "names no test rows" in caplog.text
    bad = [[*row, "train"] for row in PEOPLE] + [["120.jpg", "sad", "p", "holdout"]]
    source = manifest_source(photos("path,expression,person,split", bad))
    assert "unknown split 'holdout'" in source.bad_rows[0][2]


def test_a_video_stays_whole_where_persons_are_named_in_part(photos, caplog):
    rows = []
    for k in range(30):
        who = f"p{k // 6}" if k % 3 == 0 else ""
        rows.append([f"{k}.jpg", ("sad", "happy")[k % 2], who, f"v{k // 3}"])
    path = photos("path,expression,person,video", rows)
    for fields in ({}, {"protocol": "folds", "test_fold": 0}, {"protocol": "leave_one_out"}):
        made = make_sources({"manifest": str(path), **fields})
        people = [set(source.persons) for source in made.values()]
        assert set.union(*people) == {f"p{k}" for k in range(5)}
        assert sum(map(len, people)) == 5
    # Frames without a person are of the only person who has such a video.
    np.testing.assert_array_equal(manifest_source(path).tracks, np.arange(30) // 3)
    assert "kept together" not in caplog.text and "name no person" not in caplog.text
    clash = [*rows, ["100.jpg", "sad", "p4", "v0"]]
    source = manifest_source(photos("path,expression,person,video", clash))
    assert set(source.persons) == {"p0", "p1", "p2", "p3"}
    assert "2 persons are kept together as 1" in caplog.text and "(p0 + p4)" in caplog.text
    assert source.tracks[0] != source.tracks[1]  # whose frame the second is cannot be told


def test_what_is_unknown_or_ambiguous_is_counted(photos, caplog):
    rows = [["0.jpg", "sad", "ann", "1"], ["1.jpg", "sad", "bob", "1"], ["2.jpg", "sad", "", ""]]
    with caplog.at_level(logging.INFO):
        source = manifest_source(photos("path,expression,person,video", rows))
    assert source.persons == ["ann", "bob", "2.jpg"]
    assert "1 of 3 images name no person" in caplog.text
    assert "1 videos or groups have a name that several persons use" in caplog.text


def test_empty_cells_of_json_lines_name_no_person(tmp_path, photos):
    rows = [{"path": f"{k}.jpg", "expression": "sad"} for k in range(3)]
    rows[0]["person"], rows[1]["person"] = None, "ann"
    path = jsonl(tmp_path, [*rows[:2], '{"path": "2.jpg", "expression": "sad", "person": NaN}'])
    assert manifest_source(path).persons == ["0.jpg", "ann", "2.jpg"]


@pytest.mark.parametrize("empty", ["NaN", "null", '""'])
def test_empty_cells_of_json_lines_are_unknown(tmp_path, photos, empty):
    photos("path,expression", [])
    columns = ("valence", "arousal", "landmarks", "box", "x0", "y0", "x1", "y1", "frame", "split")
    cells = "".join(f', "{c}": {empty}' for c in columns)
    line = f'{{"path": "0.jpg", "video": "v", "expression": "sad"{cells}}}'
    source = manifest_source(jsonl(tmp_path, [line]))
    assert source.has == {"expression"} and not source.bad_rows
    # A box in one column goes with empty ones for its sides, and the other way round.
    line = '{"path": "0.jpg", "expression": "sad", "box": %s, "x0": 1, "y0": 2, "x1": 7, "y1": 8}'
    source = manifest_source(jsonl(tmp_path, [line % empty]))
    assert source[0]["box"].tolist() == [1, 2, 7, 8]


@pytest.mark.parametrize("empty", ["", " ", "nan", "None", "<NA>", "null"])
def test_written_out_empty_names_are_none(photos, empty):
    rows = [["0.jpg", "sad", "ann", "v"], ["1.jpg", "sad", empty, "v"], ["2.jpg", "sad", "NA", ""]]
    rows.append(["3.jpg", "sad", empty, empty])
    source = manifest_source(photos("path,expression,person,video", rows))
    assert source.persons == ["ann", "ann", "NA", "3.jpg"]
    np.testing.assert_array_equal(source.tracks, [0, 0, -1, -1])


@pytest.mark.parametrize("empty", ["", " ", "nan", "None", "<NA>", "null"])
def test_written_out_empty_splits_are_none(photos, empty):
    rows = [
        ["0.jpg", "sad", "a", "test"],
        ["1.jpg", "sad", "a", empty],
        ["2.jpg", "sad", "b", empty],
    ]
    made = make_sources({"manifest": str(photos("path,expression,person,split", rows))})
    assert [len(made[k]) for k in ("train", "validation", "test")] == [1, 0, 2]


def test_without_persons_each_picture_is_its_own(photos, caplog):
    rows = [row[:2] for row in PEOPLE[:30]]
    made = make_sources({"manifest": str(photos("path,expression", rows))})
    assert sum(map(len, made.values())) == 30
    assert "names no person" in caplog.text


def test_training_classes_that_are_absent_are_named(photos, caplog):

    test_person = next(f"q{k}" for k in range(99) if fold_of(f"q{k}", 4) == 1)
    rows = [*PEOPLE, ["120.jpg", "fear", test_person]]
    with caplog.at_level(logging.INFO):
        make_sources({"manifest": str(photos("path,expression,person", rows))})
    assert "no training image of class fear" in caplog.text
    assert "train: " in caplog.text and "happy " in caplog.text


def test_cleaning_applies_where_it_is_asked_for(photos):
    rows = [[*row, 0.9 if k % 4 < 2 else -0.9, 0.1] for k, row in enumerate(PEOPLE)]
    path = str(photos("path,expression,person,valence,arousal", rows))
    plain = make_sources({"manifest": path})
    clean = make_sources({"manifest": path, "clean_eval": True})
    assert len(clean["train"]) == len(plain["train"])
    assert 0 < len(clean["test"]) < len(plain["test"])
    assert len(make_sources({"manifest": path, "clean": True})["train"]) < len(plain["train"])


def test_nothing_left_for_training(photos):
    rows = [["0.jpg", "sad", "ann", "test"]]
    with pytest.raises(DataError, match="no image is left for training"):
        make_sources({"manifest": str(photos("path,expression,person,split", rows))})


def test_unknown_source_and_synthetic_source():
    with pytest.raises(DataError, match="known: synthetic, manifest, folder, tfds"):
        make_sources({"source": "files"})
    sizes = {"num_train": 6, "num_validation": 3, "num_test": 2, "render_size": 48}
    made = make_sources({"source": "synthetic", "synthetic": sizes})
    assert [len(made[k]) for k in ("train", "validation", "test")] == [6, 3, 2]
    assert made["train"][0]["image"].shape == (48, 48, 3)
    check_record(made["test"][1], made["test"].num_classes)
    with pytest.raises(DataError, match="colour"):
        make_sources({"source": "synthetic", "synthetic": {"colour": 1}})


def test_reading_is_quick_for_many_rows(tmp_path):
    import time

    for k in range(20_000):
        (tmp_path / f"{k}.jpg").write_bytes(b"x")
    write_csv(
        tmp_path / "m.csv",
        ["path", "expression", "valence", "arousal", "video"],
        [[f"{k}.jpg", "sad", 0.1, 0.2, f"v{k % 50}"] for k in range(20_000)],
    )
    start = time.process_time()
    assert len(manifest_source(tmp_path / "m.csv")) == 20_000
    assert time.process_time() - start < 4
