"""Every builder on a tiny tree in its official layout."""

import json

import cv2
import numpy as np
import pytest

from data_pipelines import datasets
from data_pipelines.dataset_names import HIERARCHIES
from data_pipelines.hierarchies import tree
from data_pipelines.images.decode import decode
from data_pipelines.prepare import prepare
from data_pipelines.schema import LABEL_ORDERS, DataError
from data_pipelines.sources.subset import Subset
from tests.data_pipelines.datasets import official_trees as trees
from tests.data_pipelines.datasets.prepared_sets import run


def test_affectnet_2017(tmp_path):
    result = run(tmp_path, "affectnet", trees.affectnet_2017(tmp_path / "in"))
    assert result.meta["release"] == "2017"
    train = result.source("train")
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2]
    assert (train.groups == -1).all() and not train.has_persons
    record = train[3]
    np.testing.assert_allclose(record["valence_arousal"], [0.3, -0.3], rtol=1e-6)
    np.testing.assert_allclose(record["landmarks"], np.round(trees.POINTS, 2), atol=1e-4)
    assert record["box"].tolist() == [4, 6, 44, 47]
    # One of the two missing, landmarks empty; the sidecar keeps every digit for the cleaning rule.
    assert np.isnan(train[8]["valence_arousal"]).tolist() == [False, True]
    assert train.valence_arousal[8, 0] == 0.123456789
    assert np.isnan(train[8]["landmarks"]).all()
    assert train[3]["image"] == trees.encoded(3)  # stored byte for byte
    assert train[9]["image"].startswith(b"\x89PNG")  # TIFF is converted, without loss
    np.testing.assert_array_equal(decode(train[9]["image"]), trees.pixels(23))
    assert result.source("validation").labels.tolist() == [3]
    assert result.rejected["8/a8.jpg"] == "expression 8 (none) is none of the 8 classes"
    assert result.rejected["10/a10.jpg"] == "expression 10 (no face) is none of the 8 classes"
    assert result.rejected["1/gone.jpg"] == "file is missing"
    assert "truncated" in result.rejected["1/cut.jpg"]
    assert result.rejected["1/far.jpg"] == "valence 1.5 is outside [-1, 1]"
    assert len(result.rejected) == 6


def test_affectnet_2021(tmp_path):
    result = run(tmp_path, "affectnet", trees.affectnet_2021(tmp_path / "in"))
    assert result.meta["release"] == "2021"
    assert result.names("train") == [f"train_set/images/{n}.jpg" for n in (0, 1, 2)]
    train = result.source("train")
    assert train.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(train[1]["valence_arousal"], [0.25, -0.5])
    assert np.isnan(train[2]["valence_arousal"]).all()
    np.testing.assert_allclose(train[0]["landmarks"], trees.POINTS, rtol=1e-6)
    assert result.source("validation").labels.tolist() == [7]
    assert result.rejected == {"train_set/images/10.jpg": "annotation 10_val.npy is missing"}


@pytest.mark.parametrize("nested", [False, True])
def test_afew_va(tmp_path, nested):
    root = trees.afew_va(tmp_path / "in", nested)
    # The archives 01 and 02 may lie side by side, and the user may point to one of them.
    result = run(tmp_path, "afew_va", root / "01" if nested else root)
    full = result.source("full")
    assert result.names("full") == [
        f"{c}/0000{f}.png" for c in ("001", "002", "051") for f in (0, 1)
    ]
    np.testing.assert_allclose(full.valence_arousal[:2], [[-1, 0.3], [-0.5, 0.3]])
    np.testing.assert_allclose(full[1]["landmarks"], trees.POINTS, rtol=1e-6)
    assert full.groups.tolist() == full.tracks.tolist() == [0, 0, 1, 1, 2, 2]
    # One actor in two spellings is one person; an unnamed one is a person of its own.
    assert full.persons == ["ann actor"] * 4 + ["clip 051"] * 2
    assert result.rejected["001/00002.png"] == "valence 11.0 is outside [-10, 10]"
    assert result.rejected["001/00003.png"] == "file is missing"
    assert len(result.rejected) == 6 and full.num_classes == 0


def test_sewa(tmp_path):
    root = trees.sewa(tmp_path / "in")
    result = run(tmp_path, "sewa/every5", root)
    full = result.source("full")
    assert result.names("full") == [
        *("SEW1101/frame 1", "SEW1101/frame 6", "SEW1101/frame 11"),
        "SEW1102/frame 1",
    ]
    np.testing.assert_allclose(full.valence_arousal, [[0.05] * 2, [0.3] * 2, [0.55] * 2, [0, -0.2]])
    assert full.persons == ["11/1"] * 3 + ["11/2"]
    assert np.abs(decode(full[1]["image"]).astype(int) - trees.pixels(5, 64)[:48]).mean() < 6
    assert result.rejected == {"SEW1102/frame 6": "arousal 1.25 is outside [-1, 1]"}
    everything = run(tmp_path, "sewa/all", root)
    assert everything.rejected["SEW1101/frame 12"] == "frame is not annotated"
    assert len(everything.source("full")) == 12


def test_sewa_does_not_choose_among_several_files(tmp_path):
    root = trees.sewa(tmp_path / "in")
    (root / "SEW1101" / "a_valence_gold.csv").write_text("0.5\n")
    result = run(tmp_path, "sewa/every5", root)
    assert result.names("full") == ["SEW1102/frame 1"]
    assert result.rejected["SEW1101"].startswith("2 files could hold the valence (")
    assert "a_valence_gold.csv" in result.rejected["SEW1101"]


def test_sewa_takes_no_file_for_both_dimensions(tmp_path):
    root = trees.sewa(tmp_path / "in")
    for place in ("SEW1101", "SEW1102"):
        for file in (root / place).glob("*_arousal.csv"):
            file.rename(file.with_name("valence_and_arousal.csv"))
    with pytest.raises(DataError, match="no recording folder with a valence and an arousal file"):
        run(tmp_path, "sewa/every5", root)


def test_aff_wild2_expressions(tmp_path):
    result = run(tmp_path, "aff_wild2/expr", trees.aff_wild2(tmp_path / "in"))
    train = result.source("train")
    # Line 1 below the header is image 00001.jpg.
    assert result.names("train") == [
        "1-30-1280x720/00001.jpg",
        "1-30-1280x720/00003.jpg",
        "1-30-1280x720_right/00001.jpg",
    ]
    assert train.labels.tolist() == [0, 7, 4]
    assert train[1]["image"] == trees.encoded(3)
    # Two persons of one video are two groups that are never parted.
    assert train.groups.tolist() == train.tracks.tolist() == [0, 0, 1]
    assert set(train.persons) == {"1-30-1280x720"}
    assert result.source("validation").labels.tolist() == [6, 2]
    assert result.rejected == {
        "1-30-1280x720/00002.jpg": "expression -1: frame is not annotated",
        "1-30-1280x720/00004.jpg": "no aligned face for this frame",
    }
    assert result.meta["roles"] == {"train": "train", "test": "validation"}


def test_aff_wild2_valence_arousal(tmp_path):
    result = run(tmp_path, "aff_wild2/va", trees.aff_wild2(tmp_path / "in"))
    assert result.source("train").valence_arousal.tolist() == [[0.5, -0.25]]
    assert result.source("validation").valence_arousal.tolist() == [[-1, 1], [0.1, 0.2]]
    assert result.rejected == {"video2/00002.jpg": "valence,arousal -5: frame is not annotated"}
    assert result.source("train").class_names == ()


def test_aff_wild2_of_2020_has_other_names_and_no_class_other(tmp_path):
    root = trees.aff_wild2(tmp_path / "in")
    notes = root / "annotations"
    (notes / "EXPR_Classification_Challenge").rename(notes / "EXPR_Set")
    (notes / "EXPR_Set/Train_Set").rename(notes / "EXPR_Set/Training_Set")
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
    trees.write(notes / "EXPR_Set/Training_Set/1-30-1280x720_right.txt", f"{header}\n6\n")
    trees.write(notes / "EXPR_Set/Training_Set/wrong.txt", "Anger,Neutral\n0\n")
    result = run(tmp_path, "aff_wild2/expr", root)
    assert result.source("train").labels.tolist() == [0, 7, 6]
    assert "header" in result.rejected["wrong.txt"]
    assert result.meta["release"] == "EXPR_Set"


def test_raf_db(tmp_path):
    result = run(tmp_path, "raf_db/aligned", trees.raf_db(tmp_path / "in"))
    train, test = result.source("train"), result.source("test")
    assert train.labels.tolist() == list(range(7))  # the files count from 1
    assert test.labels.tolist() == [4, 0]
    assert train.attribute_names == ("gender", "race", "age")
    assert [train[k]["attributes"].tolist() for k in (0, 4)] == [[0, 1, 0], [1, 2, 4]]
    assert test[1]["attributes"].tolist() == [-1, -1, -1]
    assert train.attribute_values[2][4] == "70+"
    assert result.rejected["Image/aligned/train_00008_aligned.jpg"] == "file is missing"
    assert "train_00009" in result.rejected["EmoLabel/list_patition_label.txt"]


def test_raf_db_original(tmp_path):
    root = trees.raf_db(tmp_path / "in")
    result = run(tmp_path, "raf_db/original", root / "basic")
    record = result.source("train")[2]
    assert record["box"].tolist() == [3, 4, 50, 52]
    assert record["image"] == trees.encoded(2, side=60)


@pytest.mark.parametrize("file", ["fer2013.csv", "icml_face_data.csv"])
def test_fer2013(tmp_path, file):
    result = run(tmp_path, "fer2013", trees.fer2013(tmp_path / "in", file))
    train = result.source("train")
    assert train.labels.tolist() == list(range(7))
    assert result.source("validation").labels.tolist() == [0]
    assert result.source("test").labels.tolist() == [1]
    grey = cv2.imdecode(np.frombuffer(train[4]["image"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(grey, trees.pixels(4, grey=True))
    assert result.rejected == {
        f"{file} row 9": "2300 pixels instead of 2304",
        f"{file} row 10": "emotion 9 is outside 0..6",
    }


def test_ferplus_votes(tmp_path):
    result = run(tmp_path, "ferplus/votes", trees.ferplus(tmp_path / "in"))
    train = result.source("train")
    assert train.labels.tolist() == [0, 0, -1, 7, 0]
    np.testing.assert_allclose(train[0]["expression_probs"], [0.4, 0, 0, 0.1, 0.3, 0.2, 0, 0])
    np.testing.assert_allclose(train[1]["expression_probs"][0], 0.75)
    np.testing.assert_allclose(train[2]["expression_probs"], [0, 0, 0, 0.4, 0.4, 0, 0, 0.2])
    assert "expression_probs" in train.has
    assert result.rejected["fer2013new.csv row 4"] == "taken out by the authors (no image name)"
    assert "unknown or no face" in result.rejected["fer0000003.png"]
    assert "unknown or no face" in result.rejected["fer0000006.png"]
    assert result.source("test").labels.tolist() == [6]


def test_ferplus_majority(tmp_path):
    result = run(tmp_path, "ferplus/majority", trees.ferplus(tmp_path / "in"))
    train = result.source("train")
    assert train.labels.tolist() == [0, 7, 0]
    # Votes would be trained on instead of the class.
    assert train.has == {"expression"} and "expression_probs" not in train[0]
    assert "more than half" in result.rejected["fer0000000.png"]
    assert result.rejected["fer0000003.png"] == "most votes are for unknown"


def test_ferplus_votes_that_belong_to_another_file(tmp_path):
    root = trees.ferplus(tmp_path / "in")
    votes = root / "fer2013new.csv"
    votes.write_text("\n".join(votes.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match=r"fer2013.csv \(11 rows\).*\(10 rows\)"):
        prepare("ferplus/votes", root, tmp_path / "prepared")


@pytest.mark.parametrize(("config", "peak"), [("seven", 3), ("seven_peak", 1)])
def test_ck_plus_seven(tmp_path, config, peak):
    result = run(tmp_path, f"ck_plus/{config}", trees.ck_plus(tmp_path / "in"))
    full = result.source("full")
    names = result.names("full")
    # Contempt (S002) is left out; frame 1 is neutral, the last ones show the expression.
    assert len(full) == 6 * (peak + 1) + (2 if peak == 1 else 0)
    first = names.index("S001/001/S001_001_00000001.png")
    assert full.class_names[full.labels[first]] == "neutral"
    assert names[first + peak] == "S001/001/S001_001_00000006.png"
    assert full.class_names[full.labels[first + peak]] == "anger"
    assert full.labels[names.index("S007/001/S007_001_00000006.png")] == 5
    np.testing.assert_allclose(full[first + peak]["landmarks"], trees.POINTS + 6, rtol=1e-6)
    assert full.persons[first] == "S001"
    assert "contempt" in result.rejected["S002/001"]
    assert result.rejected["S001/002"] == "the sequence has no emotion label"
    assert ("S009/001" in result.rejected) == (peak == 3)


def test_ck_plus_eight(tmp_path):
    result = run(tmp_path, "ck_plus/eight", trees.ck_plus(tmp_path / "in"))
    full = result.source("full")
    # Class ids are the numbers in the files, with neutral in the free place.
    labels = {p: set(full.labels[np.array(full.persons) == p]) for p in set(full.persons)}
    assert labels == {f"S{k:03d}": {0, k} for k in range(1, 8)}


def test_jaffe(tmp_path):
    result = run(tmp_path, "jaffe", trees.jaffe(tmp_path / "in"))
    full = result.source("full")
    by_name = dict(zip(result.names("full"), full.labels.tolist(), strict=True))
    assert by_name["KA.NE1.39.tiff"] == 0 and by_name["KA.FE1.45.tiff"] == 6
    assert sorted(full.labels.tolist()) == sorted(list(range(7)) * 2)
    assert set(full.persons) == {"KA", "YM"}
    position = result.names("full").index("KA.HA2.40.tiff")
    grey = trees.pixels(1, grey=True)
    np.testing.assert_array_equal(decode(full[position]["image"], grey=True), grey)
    assert result.rejected == {"KA.XX1.99.tiff": "expression code XX is unknown"}


@pytest.mark.parametrize("config", ["aligned", "original"])
def test_sfew(tmp_path, config):
    result = run(tmp_path, f"sfew/{config}", trees.sfew(tmp_path / "in"))
    for split, film in (("train", "Airheads"), ("validation", "Bad_Santa_2")):
        source = result.source(split)
        assert source.labels.tolist() == list(range(7))
        assert set(source.persons) == {film}
    side = 48 if config == "aligned" else 60
    assert decode(result.source("train")[0]["image"]).shape == (side, side, 3)


def test_ferg_db(tmp_path):
    result = run(tmp_path, "ferg_db", trees.ferg_db(tmp_path / "in"))
    full = result.source("full")
    assert full.labels.tolist() == [k for _ in range(2) for k in range(7) for _ in range(2)]
    assert result.names("full")[:2] == [f"aia/aia_anger/aia_anger_{n}.png" for n in (1, 10)]
    assert full.persons == ["aia"] * 14 + ["ray"] * 14


def test_fg_emotions(tmp_path):
    result = run(tmp_path, "fg_emotions", trees.fg_emotions(tmp_path / "in"))
    names = result.meta["class_names"]
    assert len(names) == 33
    train = result.source("train")
    assert {names[k] for k in train.labels} == {"anxiety", "anger", "lust"}
    assert names[result.source("test").labels[0]] == "relief"
    assert result.rejected == {"train/love/boredom/d.jpg": "folder is none of the 33 fine classes"}
    parts = (train, train.with_classes("lust,anger"), Subset(train, np.array([0])))
    assert [part.hierarchy for part in parts] == ["fg_emotions"] * 3


def test_trees_of_data_sets_fit_their_classes():
    for name, hierarchy in HIERARCHIES.items():
        classes = datasets.builder_class(name).card.class_names
        assert tree.load(hierarchy).for_classes(classes).fine == classes


def test_landmarks_300w(tmp_path):
    result = run(tmp_path, "landmarks_300w/300w", trees.landmarks_300w(tmp_path / "in"))
    counts = {s: len(result.source(s)) for s in result.prepared.splits}
    assert counts == {"train": 3, "test": 3, "private": 1}
    # The files count pixels from 1.
    np.testing.assert_allclose(result.source("train")[1]["landmarks"], trees.POINTS, atol=1e-4)
    assert "(51, 2)" in next(iter(result.rejected.values()))
    # Splits are cut by these names: they must not say where this copy lies.
    assert not any(str(tmp_path) in name for name in result.prepared.meta["person_names"])
    assert result.source("test").has == {"landmarks"}


def test_landmarks_300w_lp(tmp_path):
    result = run(tmp_path, "landmarks_300w/300w_lp", trees.landmarks_300w_lp(tmp_path / "in"))
    train = result.source("train")
    assert len(train) == 3  # without the mirrored copy
    np.testing.assert_allclose(train[1]["landmarks"], trees.POINTS, atol=1e-4)
    np.testing.assert_allclose(train[2]["landmarks"], trees.POINTS + 6, atol=1e-4)
    assert train.groups.tolist() == [0, 0, 1]  # two views of one photo
    np.testing.assert_allclose(result.source("test")[0]["landmarks"], trees.POINTS - 1, atol=1e-4)


def test_manifest_csv(tmp_path):
    root = tmp_path / "in"
    for k in range(6):
        trees.write(root / f"p/{k}.jpg", trees.encoded(k))
    trees.write(root / "p/empty.jpg", b"")
    trees.write(root / "p/bad.jpg", b"no picture")
    rows = ["path,expression,valence,arousal,person,video,gender,split"]
    for k in range(6):
        label, who = ("happy", "angry")[k % 2], ("ann", "bob")[k > 3]
        side = "test" if k == 4 else ""  # the other picture of this person follows
        rows.append(f"p/{k}.jpg,{label},0.1,0.2,{who},v{k},female,{side}")
    rows += ["p/empty.jpg,happy,0,0,ann,v0,male,", "p/bad.jpg,happy,0,0,ann,v0,male,"]
    path = trees.write(root / "my faces.csv", "\n".join(rows))
    result = run(tmp_path, "manifest", path)
    assert result.folder.parent.name == "my_faces"
    train = result.source("train")
    assert len(train) == 4 and len(result.source("test")) == 2
    assert {train.class_names[k] for k in train.labels} == {"happy", "angry"}
    assert len(set(train.groups.tolist())) == 4 and set(train.persons) == {"ann"}
    assert train.attribute_names == ("gender",)
    assert result.rejected == {
        "p/empty.jpg (row 8)": "zero bytes",
        "p/bad.jpg": "not an image in a known format",
    }


def test_manifest_folder(tmp_path):
    root = tmp_path / "in"
    for split in ("train", "test"):
        for k, name in enumerate(("happy", "sad")):
            trees.write(root / split / name / "a.png", trees.encoded(k, "png"))
    result = run(tmp_path, "manifest/own", root)
    assert set(result.prepared.splits) == {"train", "test"}
    assert result.source("train").class_names == ("happy", "sad")
    assert result.meta["config"] == "own"


def test_records_keep_their_order_and_shards_may_be_many(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.datasets.writing._SHARD_BYTES", 4000)
    result = run(tmp_path, "ferg_db", trees.ferg_db(tmp_path / "in"))
    shards = sorted(result.folder.glob("*.array_record-*"))
    assert len(shards) > 3
    full = result.source("full")
    seeds = [1000 * c + 10 * k + n for c in range(2) for k in range(7) for n in (1, 10)]
    assert [full[i]["image"] for i in range(len(full))] == [trees.encoded(s, "png") for s in seeds]


def test_tfds_reads_what_was_written(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    result = run(tmp_path, "raf_db/aligned", trees.raf_db(tmp_path / "in"))
    builder = tfds.builder_from_directory(str(result.folder))
    records = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(records) == 7 == builder.info.splits["train"].num_examples
    assert records[3]["image"] == trees.encoded(3)
    assert records[3]["expression"] == 3
    assert json.loads((result.folder / "affect.json").read_text())["release"] == ""


# As the documentation of each data set prints them, written out once more by hand.
ORDERS = {
    "affectnet": "neutral happy sad surprise fear disgust anger contempt",
    "aff_wild2": "neutral anger disgust fear happiness sadness surprise other",
    "raf_db": "surprise fear disgust happiness sadness anger neutral",
    "fer2013": "anger disgust fear happy sad surprise neutral",
    "ferplus": "neutral happiness surprise sadness anger disgust fear contempt",
    "jaffe": "neutral happy sad surprise anger disgust fear",
    "sfew": "anger disgust fear happy neutral sad surprise",
    "ferg_db": "anger disgust fear joy neutral sadness surprise",
}


@pytest.mark.parametrize("name", ORDERS)
def test_label_orders(name):
    assert datasets.builder_class(name).card.class_names == tuple(ORDERS[name].split())


def test_label_orders_of_ck_plus_and_subsets_of_affectnet():
    from data_pipelines.datasets import ck_plus, fg_emotions

    codes = ["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"]
    assert ck_plus.FILE_LABELS[1:] == tuple(codes) and ("neutral", *codes) == ck_plus.EIGHT
    seven = set(LABEL_ORDERS["ckplus7"])
    assert seven == {"neutral", *codes} - {"contempt"}
    assert LABEL_ORDERS["ckplus7"] == (*[c for c in codes if c != "contempt"], "neutral")
    full = LABEL_ORDERS["affectnet8"]
    assert LABEL_ORDERS["affectnet5"] == tuple(full[k] for k in (0, 1, 2, 3, 6))
    assert len(set(fg_emotions.CLASSES)) == 33 and fg_emotions.CLASSES[0] == "anxiety"


def test_published_counts_add_up():
    for name in datasets.names():
        cls = datasets.builder_class(name)
        for figures in cls.published.values():
            for split, counts in figures.per_class.items():
                assert sum(counts) == figures.examples[split], (name, split)
