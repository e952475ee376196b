import logging
import os

import pytest

from data_pipelines.protocols import split_names
from data_pipelines.protocols.persons import TEST, TRAIN, VALIDATION
from data_pipelines.schema import DataError
from data_pipelines.sources.make import make_sources
from tests.data_pipelines.made_images import encode, folder_source, smooth

PICTURE = encode(smooth(8, 8))
CLASSES = ("angry", "happy", "sad")


def tree(folder, *files):
    """Writes pictures; a name that ends in / is an empty folder, in .txt a text."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(b"text" if file.endswith(".txt") else PICTURE)
    return folder


def faces(below, names=CLASSES):
    return [f"{below}/{name}/{k}.jpg" for name in names for k in range(2)]


def split(folder):
    return make_sources({"source": "folder", "folder": str(folder)})


def paths(source):
    return [source.paths[i] for i in range(len(source))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(n, TRAIN) for n in ("train", "Training", "TRAIN", "trn", "train_set", "trainset")],
        *[(n, TRAIN) for n in ("train_class", "Train-images", "TrainSet", "training data")],
        *[(n, TRAIN) for n in ("affectnet_train", "FERTrain", "train2017", "trainval", "1_train")],
        *[(n, VALIDATION) for n in ("val", "VALID", "Validation", "dev", "val_class", "VALset")],
        *[(n, VALIDATION) for n in ("PublicTest", "public-test", "publictest")],
        *[(n, TEST) for n in ("test", "Testing", "test_images", "PrivateTest", "privatetest")],
        *[(n, split_names.EVALUATION) for n in ("eval", "Evaluation", "eval_set")],
        *[(n, None) for n in ("angry", "images", "train_test", "trainer", "contest", "attest")],
        *[(n, None) for n in ("validity", "devon", "valentine", "1", "", "Träne", "data")],
    ],
)
def test_names_of_splits(name, expected):
    assert split_names.split_of_folder(name) == expected


def test_cells_of_a_manifest_are_read_more_strictly():
    assert split_names.split_of_cell(" Train_Set ") == TRAIN
    assert split_names.split_of_cell("PublicTest") == VALIDATION
    for text in ("not train", "affectnet_train", "holdout", "7"):
        assert split_names.split_of_cell(text) is None


@pytest.mark.parametrize(
    ("train", "test"),
    [("train_class", "test_class"), ("Train-images", "Test-images"), ("TRAIN", "Testing")],
)
def test_splits_in_any_spelling(tmp_path, train, test):
    made = make_sources(
        {"source": "folder", "folder": str(tree(tmp_path, *faces(train), *faces(test)))}
    )
    assert set(made["train"].class_names) == set(CLASSES)
    assert all(p.startswith(test) for p in paths(made["test"])) and len(made["test"]) == 6
    assert all(p.startswith(train) for p in paths(made["train"]) + paths(made["validation"]))


def test_eval_is_the_test_split_unless_there_is_one(tmp_path):
    files = [*faces("train"), *faces("eval")]
    made = split(tree(tmp_path / "a", *files))
    assert {p.split("/")[0] for p in paths(made["test"])} == {"eval"}
    files += faces("test")
    made = split(tree(tmp_path / "b", *files))
    assert {p.split("/")[0] for p in paths(made["test"])} == {"test"}
    assert {p.split("/")[0] for p in paths(made["validation"])} == {"eval"}


def test_folders_without_pictures_are_passed_over(tmp_path, caplog):
    source = folder_source(
        tree(tmp_path, *faces("train"), *faces("test"), "extra/", "notes/a.txt", "train/fear/")
    )
    assert set(source.class_names) == set(CLASSES) and len(source) == 12
    assert "3 folders have no image: extra, notes, train/fear" in caplog.text
    # An empty split among classes is none.
    assert set(folder_source(tree(tmp_path / "b", *faces("."), "test/")).class_names) == set(
        CLASSES
    )


def test_splits_below_classes(tmp_path):
    files = [
        f"{c}/{s}/ann/{k}.jpg" for c in CLASSES for s in ("Train", "val", "test") for k in (1, 2)
    ]
    made = split(tree(tmp_path, *files))
    for name, folder in (("train", "Train"), ("validation", "val"), ("test", "test")):
        assert {p.split("/")[1] for p in paths(made[name])} == {folder}
        assert set(made[name].persons) == {"ann"} and len(made[name]) == 6
    assert set(made["train"].class_names) == set(CLASSES)


BOTH = [*faces("train"), *faces("test")]
REFUSED = {
    "mixture": ([*BOTH, *faces("extra")], r"mixes .*train.*others \(extra"),
    "splits among classes": ([*faces("."), "train/1.jpg"], r"mixes .*\(train.*others \(angry"),
    "one folder too high": (faces("images"), r"one class, 'images'.*folders of \S*/images, give"),
    "two too high": (faces("a/images"), r"one class, 'a'.*folders of \S*/a/images, give"),
    "splits too high": ([f"data/{f}" for f in BOTH], r"one class, 'data'.*folders of \S*/data, "),
    "own names too high": (["x/calm/1.jpg", "x/tense/1.jpg"], r"class, 'x'.*folders of \S*/x, "),
    "numbers too high": (["x/1/1.jpg", "x/2/1.jpg"], r"one class, 'x'.*folders of \S*/x, give"),
    "one class": (["happy/1.jpg", "happy/2.jpg", "sad/"], r"2 images are of one class, 'happy'"),
    "one class, spelt twice": (["happy/1.jpg", "Happiness/2.jpg"], r"of one class, 'happy'"),
    "person Joy": (["sad/Joy/1.jpg", "happy/ann/1.jpg"], r"sad/Joy would be .* an expression"),
    "person deep below": (["happy/a/b/Fear/1.jpg", "sad/1.jpg"], r"b/Fear would be .*expression"),
    "unknown splits": (
        [*faces("partA"), *faces("partB")],
        r"partA/angry would be .*expression.*folders of partA, partB: if these are splits, call",
    ),
    "persons above classes": (
        [f for k in range(7) for f in faces(f"p{k}")],
        r"p0/angry would be .*folders of p0, p1, p2, p3, p4 \.\.\.: .*persons, use CLASS/PERSON",
    ),
    "person test": (["happy/ann/1.jpg", "happy/test/1.jpg", "sad/1.jpg"], r"splits \(test\)"),
    "some splits below": (["happy/train/1.jpg", "sad/bob/1.jpg"], r"splits \(train\).*folders bob"),
    "splits in splits": ([f"train/{f}" for f in BOTH], r"train is named like a split and holds"),
    "wrapper in splits": ([*faces("train/images"), *faces("test/images")], r"class, 'images'"),
    "split and class": (["train_happy/1.jpg", "train_sad/1.jpg"], r"a split and a class at once"),
    "unlabelled test": ([*faces("train"), "test/1.jpg"], r"test holds images, but no folders of"),
    "folds": ([*faces("fold1"), *faces("fold2")], r"fold1, fold2 would be a class by its name"),
    "folds of own classes": (
        [f for k in (1, 2) for f in faces(f"Fold_{k}", ("calm", "tense"))],
        r"Fold_1, Fold_2 would be a class by its name",
    ),
    "folds below": ([*faces("happy", ("fold1", "fold2")), "sad/fold1/1.jpg"], r"like a split"),
    "numbered expressions": (
        [*faces("p1", ("0_angry", "1_happy")), *faces("p2", ("0_angry", "1_happy"))],
        r"p1/0_angry would be .* an expression",
    ),
    "faces of expressions": ([*faces("p1", ("Happy faces",)), "p2/1.jpg"], r"an expression"),
    "joined names": (["p1/HappyFaces/1.jpg", "p2/SadFaces/1.jpg"], r"p1/HappyFaces .* expression"),
    "short splits too high": (
        [f"data/{f}" for f in (*faces("tr"), *faces("te"))],
        r"one class, 'data'.*folders of \S*/data, give",
    ),
    "classes te and tr": (["te/ann/1.jpg", "tr/bob/1.jpg"], r"te, tr may be splits, but"),
    "images and masks": ([*faces("train", ("images", "labels"))], r"images, labels would be a cl"),
    "images among classes": ([*faces(".", (*CLASSES, "images"))], r"images would be a class"),
    "unlabelled": ([*faces(".", (*CLASSES, "unlabeled"))], r"unlabeled would be a class"),
    "pictures alone": (["1.jpg", "2.jpg"], r"holds 2 images directly, and no class folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_are_refused(tmp_path, name):
    files, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as error:
        folder_source(tree(tmp_path, *files))
    assert "expected" in str(error.value) and "found" in str(error.value)


def test_short_names_of_splits_count_where_all_folders_have_one(tmp_path):
    names = ("calm", "tense")
    made = split(
        tree(tmp_path / "a", *faces("TR", names), *faces("va", names), *faces("te", names))
    )
    assert set(made["train"].class_names) == set(names)
    for part, folder in (("train", "TR"), ("validation", "va"), ("test", "te")):
        assert {p.split("/")[0] for p in paths(made[part])} == {folder}
    source = folder_source(tree(tmp_path / "b", *faces("happy", ("TE", "KA")), "sad/TE/1.jpg"))
    assert set(source.persons) == {"TE", "KA"}


def test_short_names_of_splits_count_below_classes(tmp_path):
    made = split(tree(tmp_path / "a", *[f"{c}/{s}/1.jpg" for c in CLASSES for s in ("tr", "te")]))
    assert {p.split("/")[1] for p in paths(made["test"])} == {"te"} and len(made["test"]) == 3
    assert {p.split("/")[1] for p in paths(made["train"]) + paths(made["validation"])} == {"tr"}
    # Initials of persons: one alone, and two without a training split.
    for k, names in enumerate((["TR"], ["TE", "VA"])):
        source = folder_source(
            tree(tmp_path / str(k), *[f"{c}/{n}/1.jpg" for c in CLASSES for n in names])
        )
        assert source.persons == names * 3


def test_short_names_of_splits_that_may_be_classes_are_warned_of(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder = tree(tmp_path / "a", *[f"{c}/{p}/1.jpg" for c in ("te", "tr") for p in ("ann", "bob")])
    assert folder_source(folder).class_names == ("ann", "bob")
    assert "te, tr are taken for splits; if they are classes, list them in" in caplog.text
    listed = folder_source(folder, classes="te,tr")
    assert listed.class_names == ("te", "tr") and listed.persons == ["ann", "bob"] * 2
    caplog.clear()
    folder_source(tree(tmp_path / "b", *faces("tr"), *faces("te")))
    assert "taken for splits" not in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["happy/happy_001/1.jpg", "sad/sad_001/1.jpg"], ["happy_001", "sad_001"]),
        (["happy/Happy 1/1.jpg", "happy/Happy 2/1.jpg", "sad/1.jpg"], ["Happy 1", "Happy 2", None]),
        (["happy/joy_01/1.jpg", "sad/ann/1.jpg"], ["joy_01", "ann"]),
        (["happy/Joy/1.jpg", "sad/ann/1.jpg"], ["Joy", "ann"]),
        (["happy/HappyFaces1/1.jpg", "sad/1.jpg"], ["HappyFaces1", None]),
        (["happy/happy_images/1.jpg", "sad/sad_images/1.jpg"], [None, None]),
        (["0_happy/happy_faces/1.jpg", "1_sad/1.jpg"], [None, None]),
        (["happy/HappyFaces/ann/1.jpg", "sad/bob/1.jpg"], ["ann", "bob"]),
        (["happy/part1/1.jpg", "sad/batch_1/1.jpg"], [None, None]),
        (["happy/part1/ann/1.jpg", "sad/bob/part1/1.jpg"], ["ann", "bob"]),
    ],
)
def test_names_below_a_class_that_repeat_or_number_it(tmp_path, caplog, files, expected):
    source = folder_source(tree(tmp_path, *files))
    assert source.paths == files and not source.bad_rows
    assert source.persons == [e or f for e, f in zip(expected, files, strict=True)]
    assert "another expression" not in caplog.text
    told = sum(f.split("/")[1].startswith(("part", "batch")) for f in files)
    assert not told or f"{told} folders named like parts of the data are not" in caplog.text


def test_a_numbered_name_of_another_expression_is_a_person_and_is_warned_of(tmp_path, caplog):
    source = folder_source(tree(tmp_path, "happy/joy_01/1.jpg", "sad/joy_01/1.jpg"))
    assert source.persons == ["joy_01", "joy_01"]
    assert "1 folders named like another expression than their class" in caplog.text
    assert "are taken for persons: sad/joy_01" in caplog.text


def test_generic_names_may_be_classes_among_others_of_no_expression(tmp_path):
    source = folder_source(tree(tmp_path / "a", *faces(".", ("original", "fake"))))
    assert source.class_names == ("fake", "original")
    listed = folder_source(tree(tmp_path / "b", *faces(".", ("sad", "images"))), "sad,images")
    assert listed.class_names == ("sad", "images")


def test_outer_spaces_of_folders_and_files_are_kept(tmp_path):
    files = [" train /happy/ 1.jpg", " train /sad /2 .jpg", "test/happy/1.jpg", "test/sad/1.jpg"]
    source = folder_source(tree(tmp_path, *files))
    assert sorted(source.paths) == sorted(files) and not source.bad_rows
    assert source.class_names == ("happy", "sad")
    assert source[0]["image"] == PICTURE


def test_advice_is_not_given_where_it_would_lose_splits(tmp_path):
    names = ("mixture", "wrapper in splits", "unknown splits", "persons above classes")
    for k, name in enumerate(names):
        with pytest.raises(DataError) as error:
            folder_source(tree(tmp_path / str(k), *REFUSED[name][0]))
        assert "give that" not in str(error.value)


def test_a_class_folder_itself_is_answered_with_its_parent(tmp_path):
    tree(tmp_path, *faces("."))
    with pytest.raises(DataError, match=rf"the folders of {tmp_path}, give that"):
        folder_source(tmp_path / "angry")


def test_configured_classes_name_what_is_no_person(tmp_path):
    files = ["x/calm/1.jpg", "x/tense/1.jpg", "y/calm/1.jpg", "y/tense/2.jpg"]
    with pytest.raises(DataError, match=r"x/calm would be .*expression"):
        folder_source(tree(tmp_path, *files), classes="calm,tense")
    assert folder_source(tmp_path).persons == ["calm", "tense", "calm", "tense"]
    one = folder_source(tree(tmp_path / "one", "Happy/1.jpg"), classes="affectnet8")
    assert one.labels.tolist() == [1]


def test_what_classes_list_is_no_split(tmp_path):
    files = ["valid/1.jpg", "invalid/1.jpg"]
    with pytest.raises(DataError, match=r"mixes .*\(valid: 1 images\)"):
        folder_source(tree(tmp_path, *files))
    assert folder_source(tmp_path, classes="valid,invalid").labels.tolist() == [1, 0]
    below = [f"{c}/{p}/1.jpg" for c in ("happy", "dev") for p in ("ann", "bob")]
    assert (
        folder_source(tree(tmp_path / "b", *below), classes="happy,dev").persons
        == ["ann", "bob"] * 2
    )


@pytest.mark.parametrize(
    "names", [("Val_Ackerman", "Bob"), ("test_subject_1", "test_subject_2"), ("Dev_Patel", "Eve")]
)
def test_words_of_splits_in_names_of_persons_are_none(tmp_path, names):
    source = folder_source(tree(tmp_path, *[f"{c}/{n}/1.jpg" for c in CLASSES for n in names]))
    assert source.persons == sorted(names) * 3


def test_splits_of_a_named_set_may_stand_below_classes(tmp_path):
    files = [f"{c}/{s}/{k}.jpg" for c in CLASSES for s in ("fer_train", "fer_test") for k in (1, 2)]
    made = split(tree(tmp_path, *files))
    assert {p.split("/")[1] for p in paths(made["test"])} == {"fer_test"}


@pytest.mark.parametrize("above", ["", "train/"])
@pytest.mark.parametrize("name", ["images", "Cropped faces"])
def test_a_folder_around_the_pictures_of_a_class_is_no_person(tmp_path, above, name):
    files = [f"{above}{c}/{name}/{k}.jpg" for c in CLASSES for k in range(2)]
    assert not folder_source(tree(tmp_path / "a", *files)).has_persons
    files = [f"{above}{c}/{name}/{p}/1.jpg" for c in CLASSES for p in ("ann", "bob")]
    assert folder_source(tree(tmp_path / "b", *files)).persons == ["ann", "bob"] * 3
    # Two such folders tell something apart, and so may a number.
    for k, names in enumerate((["images", "faces"], ["face 1"])):
        files = [f"{c}/{n}/1.jpg" for c in CLASSES for n in names]
        assert set(folder_source(tree(tmp_path / f"c{k}", *files)).persons) == set(names)


def test_every_file_that_is_not_taken_is_counted(tmp_path, caplog):
    tree(tmp_path, *faces("."), "happy/a.txt", "b.txt", "loose.jpg", "__MACOSX/x.jpg", "_old/y.jpg")
    for name in ("Thumbs.db", ".DS_Store", "happy/._0.jpg", "happy/README", "sad/film.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert len(folder_source(tmp_path)) == 6
    lines = [r.message.removeprefix(f"{tmp_path}: ") for r in caplog.records]
    assert lines[:2] == [
        "7 files that are not images were left out: 2 .txt, 2 hidden, 1 .db, 1 .mp4, "
        "1 without suffix",
        "2 files in folders that start with . or _ were left out: 1 __MACOSX, 1 _old",
    ]
    assert any("1 images in no class folder" in line and "loose.jpg" in line for line in lines)
    caplog.clear()
    folder_source(tree(tmp_path / "b", *BOTH, "loose.jpg", "train/2.jpg"))
    assert "1 images in no class folder were left out: they are directly in it" in caplog.text
    assert "1 images in no class folder were left out: they are directly in train" in caplog.text


def test_pictures_are_known_by_content_where_the_suffix_is_silent(tmp_path):
    formats = {"a": "PNG", "b.JPG_large": "JPEG", "c.jfif": "JPEG", "d.webp": "WEBP", "e.x": "GIF"}
    formats |= {
        "f.tif": "TIFF",
        "g.dat": "BMP",
        "h.avif": "AVIF",
        "i.bin": "PPM",
        "j.y": "JPEG2000",
    }
    tree(tmp_path, "sad/0.jpg", "happy/no_picture.x.txt")
    for name, kind in formats.items():
        (tmp_path / "happy" / name).write_bytes(encode(smooth(8, 8), kind))
    (tmp_path / "happy" / "z.dat").write_bytes(b"BM is no bitmap, nor P6")
    source = folder_source(tmp_path)
    assert paths(source) == [f"happy/{name}" for name in sorted(formats)] + ["sad/0.jpg"]
    from data_pipelines.images.decode import decode

    for i in range(len(source)):
        assert decode(source[i]["image"]).shape == (8, 8, 3)


def test_heic_is_a_bad_row_with_its_reason(tmp_path):
    tree(tmp_path, *[f"{c}/{k}.jpg" for c in CLASSES for k in range(9)])
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    (tmp_path / "happy/phone.HEIC").write_bytes(heic)
    (tmp_path / "happy/named").write_bytes(heic)
    (tmp_path / "happy/a jpeg.heic").write_bytes(PICTURE)  # some tools only change the name
    source = folder_source(tmp_path)
    assert {(path, reason) for _, path, reason in source.bad_rows} == {
        ("happy/phone.HEIC", "HEIC images cannot be read; convert it to JPEG or PNG"),
        ("happy/named", "HEIC images cannot be read; convert it to JPEG or PNG"),
    }
    assert "happy/a jpeg.heic" in paths(source) and len(source) == 28


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="makes links")
def test_links_are_followed_and_loops_told(tmp_path, caplog):
    tree(tmp_path / "store", "faces/ann/1.jpg", "faces/2.jpg")
    root = tree(tmp_path / "root", "sad/1.jpg")
    (root / "happy").symlink_to(tmp_path / "store/faces", target_is_directory=True)
    (tmp_path / "store/faces/up").symlink_to(root, target_is_directory=True)
    (tmp_path / "store/faces/self").symlink_to("self")
    (root / "sad/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = folder_source(root)
    assert paths(source) == ["happy/2.jpg", "happy/ann/1.jpg", "sad/1.jpg"]
    assert source.persons[1] == "ann"
    assert "link to a folder above it left out: happy/up" in caplog.text
    assert "link to nothing left out: sad/gone.jpg" in caplog.text
    assert "link to nothing left out: happy/self" in caplog.text


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="makes links")
def test_a_folder_linked_into_two_classes_is_contradictory(tmp_path):
    root = tree(
        tmp_path, *[f"{c}/{k}.jpg" for c in ("happy", "sad") for k in range(20)], "fear/1.jpg"
    )
    (root / "angry").symlink_to(root / "fear", target_is_directory=True)
    source = folder_source(root)
    assert [path for _, path, _ in source.bad_rows] == ["angry/1.jpg", "fear/1.jpg"]
    reasons = [reason for _, _, reason in source.bad_rows]
    assert "fear/1.jpg is the same image with expression fear, not angry" in reasons[0]
    assert "angry/1.jpg is the same image with expression angry, not fear" in reasons[1]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    tree(tmp_path, *faces("."))
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("sad"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"sad cannot be read \(Permission denied\)"):
        folder_source(tmp_path)


def test_a_rare_folder_of_another_name_is_no_slip_of_the_pen(tmp_path):
    files = [f"{c}/{k}.jpg" for c in CLASSES for k in range(20)]
    with pytest.raises(DataError, match=r"'unknown' \(1 rows\).*happy,sad,angry,unknown"):
        folder_source(tree(tmp_path, *files, "unknown/1.jpg"))
    left = folder_source(tmp_path, classes="happy,sad,angry")
    assert len(left) == 60 and "unknown class name" in left.bad_rows[0][2]


def test_which_folders_are_splits_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder_source(tree(tmp_path, *faces("Training"), *faces("PrivateTest")))
    assert "PrivateTest as test, Training as train" in caplog.text
