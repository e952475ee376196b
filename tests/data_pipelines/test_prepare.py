"""The prepare command: wrong folders, interruption, repetition, warnings, the list."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import datasets, prepare
from data_pipelines.datasets import description
from data_pipelines.datasets.card import Published
from data_pipelines.face_finder import main_face
from data_pipelines.schema import DataError
from data_pipelines.sources.prepared import find_prepared
from tests.affect_jax.inference.made_faces import drawn, iou
from tests.data_pipelines.datasets import official_trees as trees
from tests.data_pipelines.datasets.prepared_sets import load_source

ROOT = Path(__file__).resolve().parents[2]


def command(*args: str) -> int:
    return prepare.main([str(a) for a in args])


def options(name: str, manual_dir: Path, data_dir: Path) -> list[str]:
    return ["--dataset", name, "--manual_dir", str(manual_dir), "--data_dir", str(data_dir)]


def test_list_names_every_data_set(capsys):
    assert command("--dataset", "list") == 0
    text = capsys.readouterr().out
    for name in datasets.names():
        card = datasets.builder_class(name).card
        block = next(b for b in text.split("\n\n") if b.startswith(f"{name}: "))
        assert card.apply in block
        assert (f"  labelled by  {card.labellers}\n" in block) == bool(card.labellers)
        assert f"  layout  {card.checked}" in block
        assert ("NOT verified" in block) == (name in ("sewa", "fg_emotions"))
        for line in card.expected.strip().splitlines():
            assert line in block
        for split in card.splits:
            assert f"split   {split}:" in block
    assert "0 surprise, 1 fear, 2 disgust, 3 happiness, 4 sadness, 5 anger, 6 neutral" in text
    assert "labels  expression; valence/arousal; landmarks" in text  # of own pictures
    assert "with contempt: 0 neutral, 1 anger, 2 contempt, 3 disgust" in text
    assert "12,271" in text and "4,000 (2017), 3,999 (2021)" in text


def own_data(folder: Path, labels: str) -> Path:
    folder.mkdir(exist_ok=True)
    for k in range(len(labels)):
        Image.new("RGB", (8, 8), (9 * k, len(folder.name), 0)).save(folder / f"{k}.png")
    rows = [f"{k}.png,{'happy' if c == 'h' else 'sad'},p{k}\n" for k, c in enumerate(labels)]
    (folder / "own.csv").write_text("path,expression,person\n" + "".join(rows))
    return folder / "own.csv"


def test_several_manifests_become_one_set(tmp_path, capsys):
    one, other = own_data(tmp_path / "a", "hshs"), own_data(tmp_path / "bc", "hhs")
    place = Path(f"{one},{other.parent}")
    assert command(*options("manifest", place, tmp_path / "out")) == 0
    source = load_source("manifest/own_own", tmp_path / "out", "full")
    assert [source.name(k) for k in (0, 4)] == ["a/0.png", "bc/0.png"]
    assert source.persons == ["p0", "p1", "p2", "p3", "p0", "p1", "p2"]
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 0, 1]
    (tmp_path / "tree/happy").mkdir(parents=True)
    assert command(*options("manifest", Path(f"{one},{tmp_path}/tree"), tmp_path / "out")) == 2
    assert "several data sets are joined as manifests: a.csv,b.csv" in capsys.readouterr().err
    assert command(*options("manifest", Path(f"{one},no.csv"), tmp_path / "out")) == 2
    assert "there is no folder no.csv" in capsys.readouterr().err


def test_other_data_of_the_same_name_are_not_taken_for_prepared(tmp_path, capsys):
    given = options("manifest", own_data(tmp_path / "a", "hshs"), tmp_path / "out")
    assert command(*given) == command(*given) == 0
    assert "already prepared" in capsys.readouterr().out
    own_data(tmp_path / "a", "hsss")  # another label
    assert command(*given) == 2
    text = capsys.readouterr().err
    assert "was prepared from other rows than" in text and "--dataset manifest/NAME" in text
    assert command("--dataset", "manifest/changed", *given[2:]) == 0


def test_the_order_of_rows_is_no_other_data(tmp_path):
    rows = [f"{k}.png,{'hs'[k % 2]},p{k},{'fm'[k // 2]},c{k // 2}" for k in range(4)]
    for k in range(4):
        Image.new("RGB", (8, 8), (9 * k, 0, 0)).save(tmp_path / f"{k}.png")

    def identity(lines, header="path,expression,person,gender,clip"):
        (tmp_path / "own.csv").write_text("\n".join([header, *lines]))
        return prepare.make_builder("manifest", tmp_path / "own.csv", tmp_path / "out").identity()

    first = identity(rows)
    assert identity([rows[k] for k in (2, 0, 3, 1)]) == first
    renamed = [row.replace(",f,", ",w,") for row in rows]
    others = [
        identity([row.replace(",f,", ",x,").replace(",m,", ",y,") for row in rows]),
        identity([row.replace(",c", ",d") for row in rows]),
        identity(renamed),
        identity(rows[:3]),
    ]
    assert len({first, *others}) == 5
    # Without frame numbers, the order of a video's rows is the order of its frames.
    header = "path,expression,person,gender,clip,frame"
    one = [row.replace(f"p{k}", "p") for k, row in enumerate(rows)]
    assert identity(one) != identity(one[::-1])
    numbered = [f"{row},{k}" for k, row in enumerate(one)]
    assert identity(numbered, header) == identity(numbered[::-1], header)


@pytest.mark.parametrize("name", [n for n in datasets.names() if n != "manifest"])
def test_wrong_folder_shows_expected_and_found(name, tmp_path, capsys):
    wrong = tmp_path / "holiday"
    trees.write(wrong / "photos" / "beach.txt", "x")
    assert command(*options(name, wrong, tmp_path / "out")) == 2
    text = capsys.readouterr().err
    for line in datasets.builder_class(name).card.expected.strip().splitlines():
        assert line.rstrip() in text
    assert "photos/" in text and "beach.txt" in text and str(wrong) in text
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out").glob("**/*.json"))


def test_wrong_manifest_and_missing_folder(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert command(*options("manifest", empty, tmp_path / "out")) == 2
    assert "Expected:" in capsys.readouterr().err
    assert command(*options("jaffe", tmp_path / "nowhere", tmp_path / "out")) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert command("--dataset", "jaffe") == 2
    file = trees.write(tmp_path / "file", "x")
    assert command(*options("jaffe", trees.jaffe(tmp_path / "in"), file / "out")) == 2
    assert "error: [Errno" in capsys.readouterr().err


def test_bad_rows_of_a_manifest_are_named_once(tmp_path, capsys, caplog, monkeypatch):
    trees.write(tmp_path / "in/0.png", trees.encoded(0, "png"))
    path = trees.write(tmp_path / "in/own.csv", "path,expression\n0.png,happy\ngone.png,happy")
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = options("manifest", path, Path("~/out"))
    assert command(*arguments) == 0
    assert caplog.text.count("gone.png") == 1
    assert capsys.readouterr().out.startswith("prepared")
    assert (tmp_path / "out/manifest/own/1.0.0/affect.json").is_file()
    assert command(*arguments) == 0
    assert capsys.readouterr().out.startswith("already prepared")


def test_unknown_names_are_answered_with_the_nearest(tmp_path, capsys):
    assert command(*options("rafdb", tmp_path, tmp_path)) == 2
    assert "did you mean 'raf_db'" in capsys.readouterr().err
    assert command(*options("ck_plus/nine", tmp_path, tmp_path)) == 2
    assert "known: seven" in capsys.readouterr().err
    assert command(*options("jaffe/x", tmp_path, tmp_path)) == 2


def test_summary_warnings_and_rejected_file(tmp_path, capsys):
    root = trees.affectnet_2017(tmp_path / "in")
    assert command(*options("affectnet", root, tmp_path / "out")) == 0
    text = capsys.readouterr()
    assert "release found: 2017" in text.out
    assert "train: 10 images, 6 rejected" in text.out
    assert "warning: affectnet (2017) train: 10 images, published: 287651" in text.err
    assert "happy 2 (published 134415)" in text.err
    folder = tmp_path / "out/affectnet/1.0.0"
    with open(folder / "rejected.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["split"] for r in rows] == ["train"] * 6
    assert set(rows[0]) == {"split", "file", "reason"} and all(r["reason"] for r in rows)
    # Once more: nothing is done, and the user is told.
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert command(*options("affectnet", root, tmp_path / "out")) == 0
    assert "already prepared" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_counts_are_compared_with_the_published_ones():
    meta = {
        "dataset": "x",
        "release": "",
        "person": "video",
        "class_names": ["a", "b", "c"],
        "splits": {"train": {"examples": 6, "per_class": [1, 3, 2], "persons": 4}},
    }

    def compare(**figures):
        return description.compare(meta, Published(**figures))

    assert compare(examples={"train": 6}, groups={"train": 4}) == []
    assert compare(examples={"train": 7}) == ["x train: 6 images, published: 7"]
    assert "split test is absent" in compare(examples={"test": 1})[0]
    assert compare(groups={"train": 5}) == ["x train: 4 videos, published: 5"]
    assert compare(per_class={"train": (1, 3, 2)}) == []
    (line,) = compare(per_class={"train": (3, 2, 1)})
    assert "a 1 (published 3)" in line and "permuted" in line
    assert "permuted" not in compare(per_class={"train": (1, 3, 3)})[0]


def many_pictures(root: Path, count: int) -> Path:
    for k in range(count):
        trees.write(root / "pictures" / f"{k}.jpg", trees.encoded(k % 7, side=200))
    rows = "\n".join(f"pictures/{k}.jpg,happy,p{k % 5}" for k in range(count))
    return trees.write(root / "own.csv", f"path,expression,person\n{rows}\n")


@pytest.mark.parametrize(
    "how",
    [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_a_stopped_run_leaves_nothing_and_can_be_repeated(tmp_path, how):
    manifest = many_pictures(tmp_path / "in", 1500)
    out = tmp_path / "out"
    args = [sys.executable, "-m", "data_pipelines.prepare", *options("manifest", manifest, out)]
    # A shell that runs the tests in the background has them, and so the command, ignore SIGINT.
    process = subprocess.Popen(
        args,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.time() + 60
        # Well into the writing: the first shard lies in the temporary folder.
        while not list(out.glob("manifest/own/incomplete.*/*")):
            assert process.poll() is None and time.time() < deadline, process.communicate()
            time.sleep(0.005)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(DataError, match="not prepared"):
        find_prepared("manifest", out)
    if how == signal.SIGKILL:
        assert list(out.glob("manifest/own/incomplete.*"))
    else:
        assert process.returncode == 130 and b"run the command again" in errors
        assert not list(out.glob("manifest/own/incomplete.*"))
    assert command(*options("manifest", manifest, out)) == 0
    source = load_source("manifest/own", out, "full")
    assert len(source) == 1500 and source[1499]["image"] == trees.encoded(1499 % 7, side=200)
    assert [p.name for p in out.glob("manifest/own/*") if p.is_dir()] == ["1.0.0"]


def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    root = trees.jaffe(tmp_path / "in")
    calls = []

    def progress(split, done, total):
        calls.append(done)
        if done == 9:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        prepare.prepare("jaffe", root, tmp_path / "out", progress=progress)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_dir() and p.name != "jaffe"]
    assert prepare.prepare("jaffe", root, tmp_path / "out").is_dir()


def test_two_runs_do_not_write_the_same_set(tmp_path):
    root = trees.jaffe(tmp_path / "in")
    out = tmp_path / "out"

    def progress(split, done, total):
        if done == 3:
            with pytest.raises(DataError, match="another run"):
                prepare.prepare("jaffe", root, out)

    prepare.prepare("jaffe", root, out, progress=progress)
    assert len(load_source("jaffe", out, "full")) == 14


def test_progress_counts_every_record(tmp_path):
    seen = []
    root = trees.jaffe(tmp_path / "in")
    prepare.prepare("jaffe", root, tmp_path / "out", progress=lambda *a: seen.append(a))
    assert [done for _, done, _ in seen[:-1]] == list(range(1, 16))
    assert {total for _, _, total in seen} == {15} and {s for s, _, _ in seen} == {"full"}


def test_two_runs_write_the_same_bytes(tmp_path):
    root = trees.ferplus(tmp_path / "in")
    folders = [
        prepare.prepare("ferplus/votes", root, tmp_path / out, workers=w)
        for out, w in (("one", 1), ("two", 4))
    ]
    files = [{p.name: p.read_bytes() for p in f.iterdir()} for f in folders]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        if not name.endswith(".npz"):  # zip files hold the time of writing
            assert files[0][name] == files[1][name], name


def test_an_empty_split_is_an_error(tmp_path, capsys):
    root = trees.jaffe(tmp_path / "in")
    for path in (root / "jaffe").glob("*.tiff"):
        path.write_bytes(b"")
    assert command(*options("jaffe", root, tmp_path / "out")) == 2
    assert "no usable image (15 rejected, most often: zero bytes)" in capsys.readouterr().err


def test_landmarks_of_a_data_set_are_replaced(tmp_path):
    root = trees.affectnet_2017(tmp_path / "in")
    seen = []

    def landmarker(pictures, boxes):
        seen.extend(boxes.tolist())
        assert all(p.dtype == np.uint8 and p.shape[2] == 3 for p in pictures)
        return np.stack([np.full((68, 2), p.mean(), np.float32) for p in pictures])

    prepare.prepare("affectnet", root, tmp_path / "out", landmarks=landmarker)
    train = load_source("affectnet", tmp_path / "out", "train")
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2]
    means = [trees.pixels(k).mean() for k in (0, 5)]
    for row, mean in zip((0, 5), means, strict=True):
        np.testing.assert_allclose(train[row]["landmarks"], mean, atol=3)
    # From the landmarks, with room for the forehead; without them, the box of the list.
    np.testing.assert_allclose(seen[0], [5, 8 - 0.2 * 36, 40, 44], atol=0.01)
    assert seen[8] == [4, 6, 44, 47]


def test_boxes_are_found_where_there_are_none(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    colours = {"a": (200,) * 3, "b": 180, "c": (10,) * 3, "d": (90,) * 3}  # b is grey
    for name, colour in colours.items():
        mode = "L" if name == "b" else "RGB"
        Image.new(mode, (40, 30), colour).save(folder / f"{name}.png")
    marks = [[10 + k % 8, 5 + k // 8] for k in range(68)]
    lines = [
        {"path": "a.png", "expression": "x"},
        {"path": "b.png", "expression": "y", "box": [1, 2, 11, 22]},
        {"path": "c.png", "expression": "x"},
        {"path": "d.png", "expression": "y", "landmarks": marks},
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def find(image):
        assert image.shape == (30, 40, 3) and image[0, 0, 0] in (200, 10)
        return np.array([3.0, 4, 13, 24]) if image[0, 0, 0] == 200 else None

    prepare.prepare("manifest", folder / "m.jsonl", tmp_path / "out", finder=find)
    source = load_source("manifest/m", tmp_path / "out", "full")
    boxes = [source[i]["box"].tolist() for i in range(len(source))]
    assert boxes[:2] == [[3, 4, 13, 24], [1, 2, 11, 22]]
    # From the first to the last landmark, 8 pixels high, and the forehead above them.
    np.testing.assert_allclose(boxes[2], [10.5, 5.5 - 0.2 * 8, 17.5, 13.5], atol=1e-5)
    rejected = next((tmp_path / "out").rglob("rejected.csv")).read_text()
    assert "c.png,the detector finds no face" in rejected


def test_the_detector_of_prediction_finds_the_boxes(tmp_path, capsys):
    face = drawn(1)[0]
    large = np.full((300, 500, 3), 110, np.uint8)
    large[20:276, 200:456] = face["image"]
    (tmp_path / "in").mkdir()
    Image.fromarray(large).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "m.csv").write_text("path,expression\na.png,x\n")
    arguments = [*options("manifest", tmp_path / "in" / "m.csv", tmp_path / "out"), "--detect"]
    assert command(*arguments) == 0
    box = load_source("manifest/m", tmp_path / "out", "full")[0]["box"]
    assert iou(box, face["box"] + np.array([200, 20, 200, 20])) > 0.7
    assert command(*arguments) == 0
    assert "--detect had no effect: the data set keeps its boxes" in capsys.readouterr().err


def test_the_main_face_is_large_and_certain():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 40, 50], [0, 0, 44, 50]], np.float32)
    assert main_face(boxes, np.array([0.99, 0.9, 0.7])) == 1


def test_meta_is_json_with_everything_a_reader_needs(tmp_path):
    folder = prepare.prepare("raf_db", trees.raf_db(tmp_path / "in"), tmp_path / "out")
    meta = json.loads((folder / "affect.json").read_text())
    assert meta["dataset"] == "raf_db" and meta["config"] == "aligned"
    assert meta["splits"]["train"]["per_class"] == [1] * 7
    assert meta["attributes"][0] == ["gender", ["male", "female", "unsure"]]
