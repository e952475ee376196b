"""Every row and picture that a builder sees is used or left out by name; nothing is guessed."""

import shutil

import pytest

from data_pipelines.datasets.card import Reject
from data_pipelines.prepare import prepare
from data_pipelines.schema import DataError
from tests.data_pipelines.datasets import official_trees as trees
from tests.data_pipelines.datasets.prepared_sets import run

# A folder of pictures of each layout, into which something may slip that belongs to no class.
PLACES = {
    "affectnet": (trees.affectnet_2017, "Manually_Annotated/Manually_Annotated_Images"),
    "afew_va": (trees.afew_va, "001"),
    "aff_wild2/expr": (trees.aff_wild2, "cropped_aligned"),
    "ck_plus/seven": (trees.ck_plus, "cohn-kanade-images"),
    "ferg_db": (trees.ferg_db, "FERG_DB_256"),
    "fg_emotions": (trees.fg_emotions, "train"),
    "jaffe": (trees.jaffe, "jaffe"),
    "landmarks_300w/300w": (trees.landmarks_300w, "afw"),
    "landmarks_300w/300w_lp": (trees.landmarks_300w_lp, "300W_LP/AFW"),
    "raf_db/aligned": (trees.raf_db, "basic/Image/aligned"),
    "sewa/all": (trees.sewa, "."),
    "sfew/aligned": (trees.sfew, "Train/Train_Aligned_Faces"),
}


def counts(meta) -> tuple[int, int]:
    """Pictures that are used, and all that are accounted for."""
    used = sum(s["examples"] for s in meta["splits"].values())
    rejected = sum(s["rejected"] for s in meta["splits"].values())
    other = sum(meta["left_out"].values()) + sum(meta["passed_over"].values())
    return used, used + rejected + other


@pytest.mark.parametrize("name", PLACES)
def test_every_picture_is_used_or_left_out_by_name(tmp_path, name):
    make, place = PLACES[name]
    clean = run(tmp_path / "clean", name, make(tmp_path / "in"))
    for stray in ("stray.png", "Odd folder/a.JPG", "Odd folder/deep/b.png"):
        trees.write(tmp_path / "in" / place / stray, trees.encoded(77, "png"))
    for litter in ("._a.png", "Thumbs.db", "__MACOSX/a.png"):
        trees.write(tmp_path / "in" / place / litter, "")
    found = run(tmp_path / "more", name, tmp_path / "in")
    before, after = counts(clean.meta), counts(found.meta)
    # In CK+ a sequence that is left out counts beside its frames.
    assert after == (before[0], before[1] + 3 + name.startswith("ck_plus"))
    names = " ".join([*found.rejected, *found.left_out])
    assert "Odd folder" in names


@pytest.mark.parametrize("name", ["fer2013", "ferplus/votes"])
def test_rows_of_another_usage_are_counted_and_named(tmp_path, name):
    root = trees.ferplus(tmp_path / "in")
    files = [root / "fer2013.csv", root / "fer2013new.csv"]
    for file in files:
        lines = file.read_text().splitlines()
        extra = {0: "1,{},Holdout".format(" ".join("7" * 2304)), 1: "Holdout,x" + ",1" * 10}
        lines.insert(3, extra[files.index(file)])
        # Any case and spacing of the three names is understood.
        text = "\n".join(lines).replace("PublicTest", "public test").replace("Training", "TRAINING")
        file.write_text(text.replace("PrivateTest", "private_test").replace("Usage", "usage "))
    result = run(tmp_path, name, root)
    plain = run(tmp_path / "plain", name, trees.ferplus(tmp_path / "again"))
    file = "fer2013.csv" if name == "fer2013" else "fer2013new.csv"
    reason = "Usage 'Holdout' is none of Training, PublicTest, PrivateTest"
    assert result.left_out == {f"{file} row 2": reason}
    assert result.meta["left_out"] == {reason: 1}
    assert counts(result.meta) == (counts(plain.meta)[0], counts(plain.meta)[1] + 1)
    for split in plain.prepared.splits:
        assert result.source(split).labels.tolist() == plain.source(split).labels.tolist()
    for file in files:
        lines = file.read_text().splitlines()
        file.write_text("\n".join(lines[:1] + lines[3:4] * 2 + lines[1:]))
    with pytest.raises(DataError, match=r"3 of 14 rows of .* belong to no split; the first is"):
        prepare(name, root, tmp_path / "many")


@pytest.mark.parametrize("name", ["fer2013", "ferplus/votes"])
def test_a_table_without_a_header_is_said_to_be_one(tmp_path, name):
    root = trees.ferplus(tmp_path / "in")
    lines = (root / "fer2013.csv").read_text().splitlines()
    (root / "fer2013.csv").write_text("\n".join(lines[1:]))
    with pytest.raises(DataError, match="no header emotion,pixels,Usage: it begins with") as e:
        prepare(name, root, tmp_path / "out")
    assert "write emotion,pixels,Usage as its first line" in str(e.value)
    assert max(map(len, str(e.value).splitlines())) < 400
    (root / "fer2013.csv").write_text("\n".join(["label,image", *lines[1:]]))
    with pytest.raises(DataError, match="it begins with 'label', 'image'"):
        prepare(name, root, tmp_path / "out")


def test_no_message_prints_a_whole_row(tmp_path, capsys):
    from data_pipelines.sources.manifest_rows import BadRow
    from tests.data_pipelines.made_images import manifest_source

    row = " ".join("7" * 2304)
    for error in (DataError(f"a\n{row}"), BadRow(f"value {row!r} is no number"), Reject(row)):
        assert max(map(len, str(error).splitlines())) < 1100
        assert "more characters" in str(error)
    (tmp_path / "m.csv").write_text(f"0,{row},Training\n1,{row},Training")
    with pytest.raises(DataError, match="no column `path`") as e:
        manifest_source(tmp_path / "m.csv")
    assert len(str(e.value)) < 600
    (tmp_path / "n.csv").write_text(f"path,expression\n{row},{row}")
    with pytest.raises(DataError, match="cannot be used") as e:
        manifest_source(tmp_path / "n.csv")
    assert len(str(e.value)) < 1100


@pytest.mark.parametrize(
    "moves",
    [
        {"001": "AFEW-VA_01/001", "002": "AFEW-VA_01/002", "051": "second part/051"},
        {"051": "02/051"},  # some directly in the folder, some in one of their own
        {"001": "01/01/001", "002": "01/01/002", "051": "02/02/051"},
    ],
)
def test_afew_va_reads_all_the_archives(tmp_path, moves):
    root = trees.afew_va(tmp_path / "in")
    for clip, place in moves.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / clip).rename(root / place)
    result = run(tmp_path, "afew_va", root)
    assert result.names("full") == [
        f"{c}/0000{f}.png" for c in ("001", "002", "051") for f in (0, 1)
    ]


def test_afew_va_refuses_a_clip_in_two_places(tmp_path):
    root = trees.afew_va(tmp_path / "in", nested=True)
    shutil.copytree(root / "01/002", root / "copy/002")
    with pytest.raises(DataError, match=r"1 clips lie in several folders.*clip 002 in .*01 and"):
        prepare("afew_va", root, tmp_path / "out")
    (root / "copy/002/002.json").unlink()
    result = run(tmp_path, "afew_va", root)
    # Without its JSON it is no clip; without a clip beside it, it is not looked at.
    assert len(result.source("full")) == 6


def test_jaffe_in_folders_with_copies_and_capitals(tmp_path):
    root = trees.jaffe(tmp_path / "in")
    plain = run(tmp_path / "plain", "jaffe", root)
    for path in sorted((root / "jaffe").glob("YM*.tiff")):
        target = root / "jaffe" / "YM" / path.name.replace(".tiff", ".TIFF").replace("YM.H", "ym.h")
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    for path in sorted((root / "jaffe").glob("KA.[ASH]*.tiff")):
        trees.write(path.with_name(path.name + ".bmp"), trees.encoded(1, "bmp", grey=True))
    result = run(tmp_path, "jaffe", root)
    full = result.source("full")
    assert set(full.persons) == {"KA", "YM"} and len(full) == 14
    assert sorted(full.labels.tolist()) == sorted(plain.source("full").labels.tolist())
    assert result.rejected.pop("KA.XX1.99.tiff") == "expression code XX is unknown"
    copies = {"HA2.40", "SA3.41", "SU1.42", "AN2.43"}
    assert result.rejected == {f"KA.{c}.tiff.bmp": f"copy of KA.{c}.tiff" for c in copies}
    # Copies alone are read.
    for path in (root / "jaffe").rglob("*.*"):
        if path.suffix.lower() == ".tiff":
            path.unlink()
    assert len(run(tmp_path / "alone", "jaffe", root).source("full")) == 4


def test_folders_in_another_case_are_the_same(tmp_path):
    for name, make in (
        ("raf_db/original", trees.raf_db),
        ("sfew/aligned", trees.sfew),
        ("ferg_db", trees.ferg_db),
        ("affectnet", trees.affectnet_2021),
        ("aff_wild2/expr", trees.aff_wild2),
        ("ck_plus/seven", trees.ck_plus),
        ("landmarks_300w/300w", trees.landmarks_300w),
    ):
        plain = run(tmp_path / "plain", name, make(tmp_path / name / "a"))
        folder = make(tmp_path / name / "b")
        # From the leaves up, so that no parent is renamed before its children.
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.name.startswith(("S0", "1-30", "video")):
                path.rename(path.with_name(path.name.upper()))
            elif path.suffix in (".jpg", ".png", ".txt", ".pts"):
                path.rename(path.with_suffix(path.suffix.upper()))
        other = run(tmp_path / "other", name, folder)
        for split in plain.prepared.splits:
            labels = [r.source(split).labels.tolist() for r in (plain, other)]
            assert labels[0] == labels[1], name
        assert counts(plain.meta) == counts(other.meta), name


def test_two_copies_of_a_data_set_are_not_guessed_between(tmp_path):
    trees.raf_db(tmp_path / "in/one")
    trees.raf_db(tmp_path / "in/two")
    with pytest.raises(DataError, match=r"2 folders could be the data set: .*point --manual_dir"):
        prepare("raf_db/aligned", tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in/two")
    # The compound expressions lie beside the basic ones, in files of the same names.
    shutil.copytree(tmp_path / "in/one/basic", tmp_path / "in/one/compound")
    assert len(run(tmp_path, "raf_db/aligned", tmp_path / "in").source("train")) == 7


def test_sewa_recordings_that_lack_something(tmp_path):
    root = trees.sewa(tmp_path / "in")
    (root / "SEW1101" / "SEW1101_arousal.csv").unlink()
    third = root / "SEW1103_a"
    shutil.copytree(root / "SEW1102", third)
    (third / "frames/000002.jpg").rename(third / "frames/000000.jpg")
    (third / "frames/000003.jpg").rename(third / "frames/none.jpg")
    (third / "metadata.ini").unlink()
    shutil.copytree(root / "SEW1102", root / "SEW1103_b")
    result = run(tmp_path, "sewa/all", root)
    assert result.rejected["SEW1101"] == "there is no file with the arousal"
    no_number = "its name has no frame number; frames count from 1"
    assert result.rejected["SEW1103_a/000000.jpg"] == no_number
    assert result.rejected["SEW1103_a/none.jpg"] == no_number
    # Without its metadata a recording stays with those of the same session.
    assert set(result.source("full").persons) == {"11/2"}


def test_ck_plus_with_two_labels_and_without_frames(tmp_path):
    root = trees.ck_plus(tmp_path / "in")
    trees.write(root / "Emotion/S001/001/S001_001_00000005_emotion.txt", "   3.0\n")
    trees.write(root / "Emotion/S020/001/S020_001_00000005_emotion.txt", "   3.0\n")
    result = run(tmp_path, "ck_plus/seven_peak", root)
    assert "2 files could hold the emotion" in result.rejected["S001/001"]
    assert result.rejected["S020/001"] == "the sequence has a label, but no frames"
    assert result.meta["passed_over"]["frames between the onset and the peak"] == 5 * 4


def test_raf_db_lists_each_picture_once(tmp_path):
    root = trees.raf_db(tmp_path / "in")
    file = root / "basic/EmoLabel/list_patition_label.txt"
    file.write_text(file.read_text() + "train_00003.JPG 5\n")
    result = run(tmp_path, "raf_db/aligned", root)
    assert result.source("train").labels.tolist() == list(range(7))
    assert result.meta["splits"]["train"]["rejected"] == 3


def test_aff_wild2_pictures_in_parts(tmp_path):
    root = trees.aff_wild2(tmp_path / "in")
    part = root / "cropped_aligned_new_50_vids/video2"
    part.parent.mkdir()
    (root / "cropped_aligned/video2").rename(part)
    result = run(tmp_path, "aff_wild2/expr", root)
    assert result.source("validation").labels.tolist() == [6, 2]
    shutil.copytree(part, root / "cropped_aligned/video2")
    with pytest.raises(DataError, match=r"images of video2 lie in .* and in .*; leave one"):
        prepare("aff_wild2/expr", root, tmp_path / "out")


def test_several_manifests_in_a_folder_are_not_guessed_between(tmp_path):
    trees.write(tmp_path / "in/a.png", trees.encoded(0, "png"))
    for name in ("one.csv", "two.jsonl"):
        text = "path,expression\na.png,sad" if name == "one.csv" else '{"path": "a.png"}'
        trees.write(tmp_path / "in" / name, text)
    with pytest.raises(DataError, match=r"2 manifests \(one.csv, two.jsonl\)"):
        prepare("manifest", tmp_path / "in", tmp_path / "out")
    # A table of something else is no manifest.
    trees.write(tmp_path / "in/two.jsonl", '{"subject": "a.png"}')
    result = run(tmp_path, "manifest", tmp_path / "in")
    assert result.folder.parent.name == "one" and len(result.source("full")) == 1
