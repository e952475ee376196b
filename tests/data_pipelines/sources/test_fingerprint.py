"""Fingerprints: equal for equal data wherever they lie, and the first difference is named."""

import csv
import dataclasses
import json
import shutil
import tracemalloc
import unicodedata

import numpy as np
import pytest
from PIL import Image

from data_pipelines import prepare
from data_pipelines.sources import fingerprint, make
from data_pipelines.sources.differences import first_difference
from data_pipelines.sources.fingerprint import Fingerprint, Records, of_sources

SPLITS = ("train", "train", "train", "validation", "test")
CLASSES = ("anger", "happy", "sad")


def rows_of(count: int = 30) -> list[dict]:
    return [
        {
            "path": f"pictures/{i:02d}.png",
            "expression": CLASSES[i % 3],
            "valence": "" if i == 4 else 0.1,
            "arousal": "" if i == 4 else -0.2,
            "box": "[1, 1, 30, 30]",
            "person": f"p{i // 2}",
            "video": f"v{i // 2}",
            "split": SPLITS[i // 2 % 5],
        }
        for i in range(count)
    ]


def write(folder, rows, name="faces.csv"):
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        path = folder / row["path"]
        if not path.is_absolute() or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                Image.new("RGB", (32, 32), (i * 8 % 256, 0, 0)).save(path)
    if name.endswith(".jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder / name


def of(path, **more):
    return of_sources(make.make_sources({"source": "manifest", "manifest": str(path), **more}))


@pytest.fixture
def rows():
    return rows_of()


@pytest.mark.parametrize("name", ["faces.csv", "faces.jsonl"])
def test_the_same_data_elsewhere_are_the_same(name, rows, tmp_path):
    then = of(write(tmp_path / "a", rows, name))
    assert first_difference(then, of(tmp_path / "a" / name)) is None
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    now = of(tmp_path / "b" / name)
    assert first_difference(then, now) is None and now.digest == then.digest
    # The same pictures by their whole paths.
    for row in rows:
        row["path"] = str(tmp_path / "b" / row["path"])
    assert first_difference(then, of(write(tmp_path / "b", rows, name))) is None


CHANGES = {
    "label": (lambda r: r[3].update(expression="sad"), "'pictures/03.png': expression: there "),
    "no_label": (lambda r: r[2].update(expression=""), "'pictures/02.png': expression: there 's"),
    "valence": (lambda r: r[1].update(valence=0.3), r"there \(0.1, -0.2\), now \(0.3, -0.2\)"),
    "new_valence": (lambda r: r[4].update(valence=0, arousal=0), r"there none, now \(0, 0\)"),
    "split": (lambda r: [x.update(split="test") for x in r[:2]], "00.png' is now in the test spl"),
    "person": (
        lambda r: [x.update(person="other", split="train") for x in r[2:3]],
        "'pictures/02.png': person: there 'p1', now 'other'",
    ),
    "video": (lambda r: r[1].update(video="v1", person="p0"), "group|another order"),
    "box": (lambda r: r[5].update(box="[2, 1, 30, 30]"), "'pictures/05.png': box: has changed"),
    "no_box": (lambda r: r[5].update(box=""), "'pictures/05.png': box: there given, now none"),
    "deleted": (lambda r: r.pop(10), r"'pictures/10.png' is not there any more \(18 records"),
    "appended": (
        lambda r: r.append({**r[0], "path": "pictures/new ü.png"}),
        "'pictures/new ü.png' is new",
    ),
    "order": (lambda r: r.insert(0, r.pop(12)), "'pictures/1[23].png'|another order"),
    "class": (
        lambda r: [x.update(expression="neutral") for x in r if x["expression"] == "anger"],
        "class 0: there 'happy', now 'neutral'|class 0: there 'anger', now 'neutral'",
    ),
    "more_classes": (lambda r: r[0].update(expression="fear"), "class|classes: there 3"),
    "no_valence": (
        lambda r: [x.update(valence="", arousal="") for x in r],
        "train split: there expression, valence_arousal, now expression",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_difference_is_named(change, rows, tmp_path):
    then = of(write(tmp_path, rows))
    alter, expected = CHANGES[change]
    alter(rows)
    found = first_difference(then, of(write(tmp_path, rows)))
    assert found is not None
    with pytest.raises(ValueError, match=expected):
        raise ValueError(found.text)
    assert found.only_order == (change == "order")


@pytest.mark.parametrize("seed", range(10))
def test_rows_in_another_order_are_the_same_data(seed, rows, tmp_path):
    for row in rows:  # two frames of a video, whose order is not that of the file
        row["frame"] = 100 - int(row["path"][-6:-4])
    # More faces of one image: of another box, another label, another person.
    rows.append({**rows[4], "box": "[1, 40, 30, 70]"})
    rows.append({**rows[0], "box": "[1, 40, 30, 70]", "expression": "sad", "valence": 0.4})
    rows.append({**rows[10], "box": "[1, 40, 30, 70]", "person": "other", "video": ""})
    then = of(write(tmp_path, rows))
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    found = first_difference(then, of(write(tmp_path, shuffled)))
    assert found.only_order and "in another order" in found.text


def test_a_comparison_of_many_records_needs_little_memory():
    def records(order):
        columns = {
            "path": fingerprint.encode([f"pictures/{i // 2:07d}.png" for i in order]),
            "person": fingerprint.encode([f"p{i // 9}" for i in order]),
            "expression": (order % 3).astype(np.int32),
            "box": order.astype(np.uint64) + np.uint64(1),
            "valence_arousal": np.stack([order, -order], 1).astype(np.float32),
            "group": fingerprint.renumber(order // 9),
            "track": np.full(len(order), -1, np.int32),
        }
        return Records(len(order), (), (), str(order[0]), columns, {}, {})

    order = np.arange(40_000)
    then = Fingerprint(CLASSES, (), {"train": records(order)})
    now = Fingerprint(CLASSES, (), {"train": records(order[::-1])})
    tracemalloc.start()
    found = first_difference(then, now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.only_order
    assert peak < 400 * len(order), peak / len(order)


def test_faces_of_one_image_may_change_places(rows, tmp_path):
    rows.insert(1, {**rows[0], "box": "[1, 40, 30, 70]", "expression": "sad"})
    then = of(write(tmp_path, rows))
    found = first_difference(then, of(write(tmp_path, [rows[1], rows[0], *rows[2:]])))
    assert found.only_order
    assert found.text == (
        "train split: the same records in another order: place 0 has another record of "
        "'pictures/00.png' than before"
    )
    rows[0]["expression"] = "happy"
    found = first_difference(then, of(write(tmp_path, [rows[1], rows[0], *rows[2:]])))
    assert not found.only_order
    assert found.text == "train split: 'pictures/00.png': expression: there 'anger', now 'happy'"
    # Labels exchanged between two faces are not another order.
    rows[0]["expression"], rows[1]["expression"] = "sad", "anger"
    found = first_difference(then, of(write(tmp_path, rows)))
    assert found.text == (
        "train split: 'pictures/00.png': expression: there 'anger', now 'sad' (1 more records of "
        "the split differ in this)"
    )


def test_a_changed_label_among_rows_in_another_order_is_named(rows, tmp_path):
    then = of(write(tmp_path, rows))
    rows[1]["expression"] = "sad"
    found = first_difference(then, of(write(tmp_path, [*rows[10:], *rows[:10]])))
    assert not found.only_order
    assert found.text == "train split: 'pictures/01.png': expression: there 'happy', now 'sad'"
    rows[1] |= {"expression": "happy", "person": "p5", "video": "v5"}
    found = first_difference(then, of(write(tmp_path, [*rows[10:], *rows[:10]])))
    assert "'pictures/01.png': person: there 'p0', now 'p5'" in found.text


def test_frames_in_another_order_are_another_video(rows, tmp_path):
    then = of(write(tmp_path, rows))
    found = first_difference(then, of(write(tmp_path, rows[::-1])))
    assert not found.only_order
    assert found.text == "train split: 'pictures/01.png': its video has another order now"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_copy_that_spells_accents_otherwise_is_the_same(form, rows, tmp_path):
    spelt = [
        {**row, "path": f"é/{row['path'][9:]}", "person": f"René {row['person']}", "video": ""}
        for row in rows
    ]
    then = of(write(tmp_path / "a", spelt))
    for row in spelt:
        row |= {k: unicodedata.normalize(form, row[k]) for k in ("path", "person")}
    now = of(write(tmp_path / "b", spelt))
    assert first_difference(then, now) is None and now.digest == then.digest


def as_recorded(then, change):
    """Return a fingerprint whose strings, and so its digests, were recorded in another form."""
    splits = {}
    for split, records in then.splits.items():
        columns = dict(records.columns)
        for name in ("path", "person"):
            columns[name] = fingerprint.encode([*map(change, fingerprint.decode(columns[name]))])
        splits[split] = dataclasses.replace(records, columns=columns, digest="of that version")
    return dataclasses.replace(then, splits=splits)


def test_a_record_of_an_earlier_version_may_have_accents_in_two_parts(rows, tmp_path):
    for row in rows:
        row |= {"path": f"é/{row['path'][9:]}", "person": f"René {row['person']}"}
        row.pop("video")
    then = as_recorded(of(write(tmp_path, rows)), lambda text: unicodedata.normalize("NFD", text))
    assert b"e\xcc\x81/00.png" in then.splits["train"].columns["path"].tobytes()
    assert first_difference(then, of(write(tmp_path, rows))) is None
    assert first_difference(then, of(write(tmp_path, rows[::-1]))).only_order
    rows[1]["expression"] = "sad"
    found = first_difference(then, of(write(tmp_path, rows)))
    assert found.text == "train split: 'é/01.png': expression: there 'happy', now 'sad'"


def test_persons_that_were_told_apart_by_their_spelling_are_said(rows, tmp_path):
    for i, row in enumerate(rows):
        row |= {"person": f"{i:02d}", "video": ""}
    # 1 and 01, in rows 0 and 1, are one person now, and two in the record.
    rows[0]["person"] = "1"
    then = of(write(tmp_path, rows))
    assert fingerprint.decode(then.splits["train"].columns["person"])[:2] == ["01", "01"]
    names = iter(["1", "01"])
    then = as_recorded(then, lambda text: next(names) if text == "01" else text)
    found = first_difference(then, of(write(tmp_path, rows)))
    assert found.only_persons and not found.only_order
    assert found.text == (
        "train split: 'pictures/00.png': person: there '1', now '01'; names that differ only in "
        "zeros before a number, capitals, spaces and forms of Unicode are one person now"
    )
    rows[4]["person"] = "another"  # the data have changed as well
    found = first_difference(then, of(write(tmp_path, rows)))
    assert not found.only_persons
    assert found.text == "train split: 'pictures/04.png': person: there '04', now 'another'"


def test_a_photo_that_vanished_or_moved_is_named(rows, tmp_path):
    path = write(tmp_path, rows)
    then = of(path)
    (tmp_path / "pictures/07.png").rename(tmp_path / "pictures/seven.png")
    found = first_difference(then, of(path))
    assert "validation split: 'pictures/07.png' is not there any more" in found.text


def test_other_pictures_of_the_same_names_are_noticed(rows, tmp_path):
    path = write(tmp_path, rows)
    then = of(path)
    for row in rows:
        Image.new("RGB", (32, 32), (0, 9, 9)).save(tmp_path / row["path"])
    found = first_difference(then, of(path))
    assert "'pictures/00.png': the image there and the one now are not the same" in found.text


@pytest.mark.parametrize("recorded", ["now", "by an earlier version"])
def test_other_pictures_are_noticed_in_another_order_too(recorded, tmp_path):
    rows = [{**row, "split": "train"} for row in rows_of(200)] + rows_of(10)[6:]
    for i, row in enumerate(rows):
        row |= {"path": f"pictures/{i}.png", "person": f"p{i}"}
        row.pop("video")
    then = of(write(tmp_path, rows))
    train = then.splits["train"]
    assert 32 < len(train.sample) <= 64
    if recorded != "now":  # images at equal distances alone
        places = {str(i) for i in np.linspace(0, train.count - 1, 32).astype(int)}
        sample = {k: v for k, v in train.sample.items() if k in places}
        train = dataclasses.replace(train, sample=sample)
        then = dataclasses.replace(then, splits={**then.splits, "train": train})
    path = write(tmp_path, [*rows[100:], *rows[:100]])
    assert first_difference(then, of(path)).only_order
    for row in rows:
        Image.new("RGB", (32, 32), (0, 9, 9)).save(tmp_path / row["path"])
    found = first_difference(then, of(path))
    assert not found.only_order
    assert found.text.startswith("train split: 'pictures/") and "the same file" in found.text


def test_a_replaced_picture_of_a_small_split_is_named_in_any_order(rows, tmp_path):
    for row in rows:
        row.pop("video")
    then = of(write(tmp_path, rows))
    Image.new("RGB", (32, 32), (0, 9, 9)).save(tmp_path / "pictures/10.png")
    found = first_difference(then, of(write(tmp_path, rows[::-1])))
    assert not found.only_order
    assert found.text.startswith("train split: 'pictures/10.png': the image there")


def test_folders_name_the_class_that_was_renamed(tmp_path):
    for i, name in enumerate(("anger", "happy", "sad")):
        for k in range(12):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (i, k, 0)).save(tmp_path / name / f"{k}.png")
    config = {"source": "folder", "folder": str(tmp_path)}
    then = of_sources(make.make_sources(config))
    (tmp_path / "anger").rename(tmp_path / "neutral")
    found = first_difference(then, of_sources(make.make_sources(config)))
    assert found.text.startswith("class 0: there 'happy', now 'neutral'")
    (tmp_path / "neutral").rename(tmp_path / "Angry")  # another word for the same class
    found = first_difference(then, of_sources(make.make_sources(config)))
    assert "'anger/" in found.text and "not there any more" in found.text


def test_folds_know_their_records(rows, tmp_path):
    path = write(tmp_path, rows)
    fold = {"protocol": "folds", "folds": 3, "test_fold": 1}
    then = of(path, **fold)
    assert first_difference(then, of(path, **fold)) is None
    rows[8]["expression"] = "happy"
    assert "pictures/" in first_difference(then, of(write(tmp_path, rows), **fold)).text


def test_synthetic_faces_are_what_they_are_drawn_from():
    def made(**section):
        section = {"num_train": 40, "num_validation": 16, "num_test": 16} | section
        return of_sources(make.make_sources({"source": "synthetic", "synthetic": section}))

    assert first_difference(made(), made()) is None
    for section in ({"num_train": 41}, {"seed": 1}, {"render_size": 64}, {"test_domain": "b"}):
        assert first_difference(made(), made(**section)) is not None
    noisy = first_difference(made(), made(symmetric_noise=0.5))
    assert "train split" in noisy.text


def test_a_set_prepared_from_other_pictures_is_another_one(rows, tmp_path):
    def prepared(place):
        path = write(tmp_path / place, rows)
        prepare.prepare("manifest", path, tmp_path / place / "out")
        config = {"source": "tfds", "dataset": "manifest/faces"}
        made = make.make_sources({**config, "data_dir": str(tmp_path / place / "out")})
        return of_sources(made)

    then = prepared("a")
    assert first_difference(then, prepared("same")) is None
    for name, change in {
        "label": {"expression": "sad"},
        "box": {"box": "[3, 1, 30, 30]"},
    }.items():
        kept, rows[3] = rows[3], rows[3] | change
        found = first_difference(then, prepared(name))
        rows[3] = kept
        assert found is not None and ("content" in found.text) == (name == "box"), found
    Image.new("RGB", (32, 32), (77, 9, 9)).save(tmp_path / "x.png")
    (tmp_path / "other/pictures").mkdir(parents=True)
    shutil.copy(tmp_path / "x.png", tmp_path / "other/pictures/17.png")
    assert "content" in first_difference(then, prepared("other")).text


def test_without_columns_the_counts_are_told(rows, tmp_path):
    then = of(write(tmp_path, rows))
    lost = {s: dataclasses.replace(r, columns={}) for s, r in then.splits.items()}
    then = dataclasses.replace(then, splits=lost)
    assert first_difference(then, of(tmp_path / "faces.csv")) is None
    rows.pop()
    assert first_difference(then, of(write(tmp_path, rows))).text == (
        "test split: 6 records there, 5 now, and they are not the same"
    )


def test_hashes_of_rows():
    points = np.random.default_rng(0).normal(size=(10_000, 68, 2)).astype(np.float32)
    points[5] = np.nan
    hashes = fingerprint.hash_rows(points)
    assert hashes[5] == 0 and len(np.unique(hashes)) == 10_000
    points[7, 3, 1] = np.nextafter(points[7, 3, 1], 9)
    again = fingerprint.hash_rows(points)
    assert np.flatnonzero(again != hashes).tolist() == [7]
    points[8] = points[8][::-1]
    assert fingerprint.hash_rows(points)[8] != hashes[8]
    zeros = np.zeros((2, 4))
    np.testing.assert_array_equal(fingerprint.hash_rows(-zeros), fingerprint.hash_rows(zeros))


def test_codes_tell_who_belongs_together():
    codes = np.array([7, 7, -1, 3, 7, -5, 0])
    assert fingerprint.renumber(codes).tolist() == [0, 0, -1, 1, 0, -1, 2]
    assert fingerprint.renumber(np.array([], int)).tolist() == []
