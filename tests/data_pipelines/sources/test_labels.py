import logging

import numpy as np
import pytest

from data_pipelines.schema import LABEL_ORDERS, DataError, TooManyBadRecords, order_name
from tests.data_pipelines.made_images import (
    encode,
    folder_source,
    manifest_source,
    smooth,
    write_csv,
)

PICTURE = encode(smooth(8, 8))


@pytest.fixture
def named(tmp_path):
    """A function that writes a manifest of the given labels, a picture each, and reads it."""

    def read(labels, **options):
        for k in range(len(labels)):
            (tmp_path / f"{k}.jpg").write_bytes(PICTURE)
        write_csv(
            tmp_path / "m.csv",
            ["path", "expression"],
            [[f"{k}.jpg", label] for k, label in enumerate(labels)],
        )
        return manifest_source(tmp_path / "m.csv", **options)

    return read


def meanings(source):
    return [source.class_names[k] for k in source.labels]


ORDERS = {
    "affectnet8": (range(8), LABEL_ORDERS["affectnet8"]),
    "affwild2": (range(8), LABEL_ORDERS["affwild2"]),
    "ferplus": (range(8), LABEL_ORDERS["ferplus"]),
    "fer2013": (range(7), LABEL_ORDERS["fer2013"]),
    "jaffe": (range(7), LABEL_ORDERS["jaffe"]),
    "affectnet7": (range(7), LABEL_ORDERS["affectnet7"]),
    "RAF-DB": (range(1, 8), LABEL_ORDERS["rafdb"]),
    "rafdb": (range(7), LABEL_ORDERS["rafdb"]),
    "ckplus7": (range(7), LABEL_ORDERS["ckplus7"]),
    "affectnet5": ((0, 1, 2, 3, 6), LABEL_ORDERS["affectnet5"]),
    "a,b,c": (range(3), ("a", "b", "c")),
}


@pytest.mark.parametrize("classes", ORDERS)
@pytest.mark.parametrize("spelling", ["{}", "{}.0", "'{}'", "0{}", "+{}", " {} "])
def test_ids_of_an_order_are_its_own(named, classes, spelling):
    ids, names = ORDERS[classes]
    assert meanings(named([spelling.format(k) for k in ids], classes=classes)) == list(names)


def test_ids_of_a_file_may_name_classes_that_an_order_leaves_out(named, caplog):
    caplog.set_level(logging.INFO)
    affectnet = named([str(k % 8) for k in range(80)], classes="affectnet5", max_bad_fraction=0.4)
    expected = [LABEL_ORDERS["affectnet8"][k % 8] for k in range(80) if k % 8 in (0, 1, 2, 3, 6)]
    assert meanings(affectnet) == expected
    assert "class id 4 is fear in AffectNet's files" in affectnet.bad_rows[0][2]
    assert "ids of AffectNet's files: 0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear" in caplog.text
    plus = named([str(k % 7 + 1) for k in range(70)], classes="ckplus7", max_bad_fraction=0.2)
    assert meanings(plus)[:6] == ["anger", "disgust", "fear", "happy", "sadness", "surprise"]
    assert "2 is contempt in CK+'s files" in plus.bad_rows[0][2]
    seven = named([str(k % 8) for k in range(80)], classes="affectnet7", max_bad_fraction=0.2)
    assert "7 is contempt" in seven.bad_rows[0][2] and len(seven) == 70
    with pytest.raises(TooManyBadRecords):
        named([str(k % 8) for k in range(80)], classes="affectnet5")


FROM_1 = {
    "affectnet8": range(1, 9),
    "affectnet8 without contempt": range(1, 8),
    "affwild2": range(1, 9),
    "ferplus": range(1, 9),
    "fer2013": range(1, 8),
    "fer2013 without neutral": range(1, 7),
    "jaffe": range(1, 8),
    "affectnet7": range(1, 8),
    "affectnet5 as AffectNet": range(1, 9),
    "affectnet5": range(1, 6),
    "a,b,c": range(1, 4),
    "happy,sad": range(1, 3),
    "affectnet8 and a code for unknown": range(9),
    "rafdb and a code for unknown": range(8),
    "ckplus7 and neutral": range(8),
    "fer2013 and more": range(12),
}


@pytest.mark.parametrize("case", FROM_1)
@pytest.mark.parametrize("spelling", ["{}", "{}.0"])
def test_ids_that_count_from_1_are_refused_at_any_tolerance(named, case, spelling):
    labels = [spelling.format(k) for k in FROM_1[case]] * 5
    with pytest.raises(DataError, match=r"ds count from 0.*write class names instead of") as error:
        named(labels, classes=case.split()[0], max_bad_fraction=1.0)
    assert not isinstance(error.value, TooManyBadRecords)


def test_a_rare_class_does_not_hide_that_ids_count_from_1(named):
    labels = [str(k % 7 + 1) for k in range(700)]
    with pytest.raises(DataError, match="ids count from 0"):
        named([*labels, "8", "8"], classes="affectnet8", max_bad_fraction=1.0)
    with pytest.raises(DataError, match="ids count from 0"):
        named([*labels, "8", "8", "0"], classes="affectnet8", max_bad_fraction=1.0)


@pytest.mark.parametrize(
    ("classes", "ids"), [("affectnet5", range(5)), ("affectnet5", (1, 4)), ("rafdb", range(2, 5))]
)
def test_ids_that_may_mean_two_things_are_refused(named, classes, ids):
    with pytest.raises(DataError, match=r"may mean two things. in .*; or in .*files"):
        named([str(k) for k in ids], classes=classes)


def test_ids_that_mean_one_thing_either_way_are_taken(named):
    assert meanings(named(["1", "3", "0"], classes="affectnet5")) == [
        "happy",
        "surprise",
        "neutral",
    ]
    assert meanings(named(["3", "5"], classes="affectnet8")) == ["surprise", "disgust"]
    # A list of names is explicit: positions in it.
    five = ",".join(LABEL_ORDERS["affectnet5"])
    assert meanings(named([*"01234"], classes=five)) == list(LABEL_ORDERS["affectnet5"])


def test_a_stray_id_is_a_bad_row(named):
    source = named([*[str(k % 8) for k in range(40)], "42", "-3"], classes="affectnet8")
    assert [reason.split(";")[0] for _, _, reason in source.bad_rows] == [
        "class id '42'",
        "class id '-3'",
    ]
    raf = named([*[str(k % 7 + 1) for k in range(40)], "0"], classes="rafdb")
    assert meanings(raf)[:2] == ["surprise", "fear"] and len(raf.bad_rows) == 1
    with pytest.raises(DataError, match="has no class for 42"):
        named([*[str(k % 8) for k in range(40)], *["42"] * 5], classes="affectnet8")


def test_names_that_are_numbers_are_names(named):
    source = named(["1", "2.0", "03"], classes="1,2,3")
    assert source.labels.tolist() == [0, 1, 2]
    assert named(["01", "02"], classes="01,02").labels.tolist() == [0, 1]
    with pytest.raises(TooManyBadRecords, match="class id '0'"):
        named(["0", "1", "2"], classes="1,2,3")


@pytest.mark.parametrize(
    "labels", [range(1, 8), (1, 2, 3), (0, 1, 2, 3, 6), (0, 2, 4), [1.0, 2.0, 3.0], [5]]
)
def test_without_classes_ids_are_0_and_up_without_a_gap(named, labels):
    with pytest.raises(DataError, match="without a gap"):
        named([*map(str, labels)] * 4)


def test_the_orders_that_ids_fit_are_named(named, caplog):
    with pytest.raises(DataError, match="numbers fit: rafdb, ckplus7 "):
        named([*map(str, range(1, 8))])
    assert named([*"01234567"]).class_names == tuple("01234567")
    assert "numbers fit: affectnet8, affectnet7, affectnet5, affwild2, ferplus" in caplog.text


def test_a_code_for_unknown_is_no_class(named):
    labels = ["-1", "-1.0", "", "nan", "NaN", "null", "N/A", "NA", "<NA>", "sad", "happy"]
    assert named(labels).labels.tolist() == [-1] * 9 + [1, 0]


@pytest.mark.parametrize("label", ["1.5", "0,5", "1e-3", "-0.2"])
def test_a_number_that_is_no_id_is_a_bad_row(named, label):
    source = named([*["sad", "happy"] * 8, label])
    assert f"expression {label!r} is neither a class name nor" in source.bad_rows[0][2]


def test_names_and_numbers_are_not_mixed_without_classes(named):
    with pytest.raises(DataError, match=r"most labels are names, but '3' \(5 rows\)"):
        named(["neutral", "happy", "sad"] * 5 + ["3"] * 5)
    with pytest.raises(DataError, match=r"most labels are the numbers 0, 1, 2, but 'sad' \(5 rows"):
        named([*"012"] * 5 + ["sad"] * 5)
    mixed = named(["neutral", "happiness", "3"], classes="affectnet8")
    assert meanings(mixed) == ["neutral", "happy", "surprise"]
    assert len(named(["neutral", "happy"] * 20 + ["3"]).bad_rows) == 1


def test_a_label_beyond_the_basic_expressions_is_no_slip_of_the_pen(named):
    labels = ["happy", "sad", "neutral"] * 40
    with pytest.raises(DataError, match=r"'bored' \(5 rows\).*classes=neutral,happy,sad,bored "):
        named([*labels, *["bored"] * 5])
    with pytest.raises(DataError, match=r"'hapy' \(4 rows; 'happy' misspelt\?\)"):
        named([*labels, *["hapy"] * 4])
    slip = named([*labels, "hapy"])
    assert slip.class_names == ("neutral", "happy", "sad")
    assert "unknown class name 'hapy' (did you mean 'happy'?)" in slip.bad_rows[0][2]
    assert named([*labels, *["bored"] * 5], classes="happy,sad,neutral,bored").num_classes == 4
    assert len(named([*labels, *["bored"] * 5], classes="happy,sad,neutral")) == 120


def test_a_misspelt_expression_is_no_class_among_own_ones(named):
    labels = ["happy", "sad", "bored", "tired"] * 20
    assert named([*labels, "hapy"]).class_names == ("bored", "happy", "sad", "tired")
    assert "calm2" in named([*labels, "calm2"]).class_names


@pytest.mark.parametrize(
    ("train", "test"), [("happy", "hapy"), ("Bored", "boredom"), ("Überrascht", "überraschd")]
)
def test_a_class_that_splits_spell_differently_is_refused(tmp_path, train, test):
    for split, name in (("train", train), ("test", test)):
        for c in (name, "sad", "tired"):
            (tmp_path / split / c).mkdir(parents=True)
            (tmp_path / split / c / "1.jpg").write_bytes(PICTURE)
    expected = "|".join(
        f"'{a}' is only in {p} and '{b}' only in {q}"
        for a, p, b, q in ((train, "train", test, "test"), (test, "test", train, "train"))
    )
    with pytest.raises(DataError, match=rf"({expected}).*list the classes: data\.classes="):
        folder_source(tmp_path)
    both = folder_source(tmp_path, classes=f"{train},{test},sad,tired")
    assert np.bincount(both.labels).tolist() == [1, 1, 2, 2]
    # In one split they are two classes.
    (tmp_path / "train" / test).mkdir()
    (tmp_path / "train" / test / "2.jpg").write_bytes(PICTURE)
    assert len(set(folder_source(tmp_path).labels.tolist())) == 4


def test_numbered_classes_may_stand_in_one_split_each(tmp_path):
    for name in ("train/level 1", "test/level 2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(PICTURE)
    assert folder_source(tmp_path).class_names == ("level 1", "level 2")


def test_folders_are_ids_as_rows_are(tmp_path):
    for k in range(1, 8):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "a.jpg").write_bytes(PICTURE)
    assert meanings(folder_source(tmp_path, classes="RAFDB")) == list(LABEL_ORDERS["rafdb"])
    for classes in ("", "affectnet8", "fer2013"):
        with pytest.raises(DataError, match=r"ids count from 0|without a gap"):
            folder_source(tmp_path, classes=classes, max_bad_fraction=1.0)


def test_orders_are_known_in_other_spellings():
    assert [order_name(n) for n in ("AffectNet-8", "RAF_DB", "fer 2013")] == [
        "affectnet8",
        "rafdb",
        "fer2013",
    ]
    assert order_name("affectnet8,rafdb") == order_name("happy") == order_name(("rafdb",)) == ""


def test_a_class_in_two_unicode_forms_is_one(named):
    source = named(["fr\u00f6hlich", "fro\u0308hlich", "traurig"])
    assert source.class_names == ("fr\u00f6hlich", "traurig")
    assert source.labels.tolist() == [0, 0, 1]
    source = named(["fro\u0308hlich", "traurig"], classes=("traurig", "fr\u00f6hlich"))
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize("label", ["[0, 1, 0]", "[3]", '{"happy": 0.9}'])
def test_a_list_is_no_label(named, label):
    source = named(["happy", "sad"] * 6 + [label])
    assert source.class_names == ("happy", "sad")
    assert (
        source.bad_rows[0].reason
        == f"expression {label!r} is a list; give one class name or number"
    )


@pytest.mark.parametrize("label", ["['happy']", '["happy"]', "[ 'happy ' ]"])
def test_a_list_of_one_name_is_that_name(named, label):
    source = named(["happy", "sad"] * 6 + [label])
    assert not source.bad_rows and source.class_names == ("happy", "sad")
    assert source.labels.tolist() == [0, 1] * 6 + [0]


@pytest.mark.parametrize("label", ["['happy', 'sad']", "['']", "[]"])
def test_a_list_of_several_or_no_names_is_a_bad_row(named, label):
    source = named(["happy", "sad"] * 6 + [label])
    assert "is a list; give one class name or number" in source.bad_rows[0].reason


def test_a_single_class_is_warned_of(named, caplog):
    named(["sad", "sadness"])
    assert "every label is sad" in caplog.text
