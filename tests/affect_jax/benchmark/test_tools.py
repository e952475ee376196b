"""The comparison of tools: names, scores, rows, and how `fer` is called."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import fer_worker, tools
from affect_jax.benchmark.tools import Answers, Photos
from affect_jax.errors import UserError
from affect_jax.runtime import xla_flags
from tests.affect_jax.inference import media

# 10 neutral, 10 happy, 2 of contempt.
PHOTOS = Photos(
    [f"{i}.png" for i in range(22)],
    np.array([0] * 10 + [1] * 10 + [2] * 2),
    ("neutral", "happy", "contempt"),
)
# A `fer` that finds no face in the last photo with its own detector, and says "happy" of the rest.
STUB_WORKER = """
import json, sys
photos = json.load(open(sys.argv[1]))["photos"]
said = [[0.25, 0.75]] * len(photos)
runs = {
    "whole picture": {"probabilities": said, "seconds": 2.0},
    "own detector": {"probabilities": [*said[:-1], None], "seconds": 4.0},
}
json.dump({"version": "1", "classes": ["angry", "happy"], "runs": runs}, open(sys.argv[2], "w"))
"""


@pytest.fixture
def stub():
    """A tool without contempt: 8 + 5 right, 1 in anger, no face in 2 photos."""
    said = [("neutral", 8), ("happiness", 2), ("happiness", 5), ("angry", 1), ("neutral", 2)]
    names = ("happiness", "angry", "neutral")
    rows = [[0.8 if name == best else 0.1 for name in names] for best, n in said for _ in range(n)]
    rows += [[math.nan] * 3] * 2
    rows += [[0.8, 0.1, 0.1]] * 2
    return Answers(names, np.array(rows), 4.0)


def write_manifest(folder, rows):
    lines = ["path,expression,split"]
    for i, (expression, split) in enumerate(rows):
        Image.new("RGB", (64, 48), (7 * i, 90, 120)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{expression},{split}")
    path = folder / "photos.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_scores_of_a_tool(stub):
    figures = tools.score(PHOTOS, stub)
    assert figures["accuracy"] == pytest.approx(13 / 22)
    assert figures["balanced_accuracy"] == pytest.approx((0.8 + 0.5) / 2)
    # True, predicted and right: neutral 10, 10, 8; happy 10, 9, 5. Contempt is too rare.
    assert figures["f1_macro"] == pytest.approx((2 * 8 / 20 + 2 * 5 / 19) / 2)
    # 13 of 20 faces are right at a confidence of 0.8.
    assert figures["ece"] == pytest.approx(0.8 - 13 / 20)
    # Of 18 faces of known classes 13 are right.
    assert figures["nll"] == pytest.approx(-(13 * math.log(0.8) + 5 * math.log(0.1)) / 18)
    assert figures["faces_found"] == pytest.approx(20 / 22)
    assert figures["faces_per_second"] == 5


def test_a_tool_that_finds_no_face(stub):
    blind = stub._replace(probabilities=np.full((22, 3), math.nan))
    assert tools.score(PHOTOS, blind) == {
        "accuracy": 0,
        "balanced_accuracy": 0,
        "f1_macro": 0,
        "faces_found": 0,
        "faces_per_second": 0,
    }


def test_rows_compare_ours_with_each_peer(stub):
    perfect = Answers(("neutral", "happy", "contempt"), np.eye(3)[PHOTOS.labels], 2.0)
    blind = stub._replace(probabilities=np.full((22, 3), math.nan))
    made = tools.rows(PHOTOS, {"ours": perfect, "a": stub, "b": blind})
    ratios = {(r["metric"], r["baseline"]): r["ratio"] for r in made if r["case"] == "ours"}
    assert ratios["accuracy", "a"] == pytest.approx(22 / 13)
    assert ("accuracy", "b") not in ratios
    assert ratios["faces_per_second", "a"] == pytest.approx(11 / 5)
    # Nothing can be divided by a perfect score.
    assert ratios["ece", None] is None and ratios["nll", None] is None
    assert all(r["ratio"] is None for r in made if r["case"] != "ours")


def test_classes_that_a_tool_lacks_are_named(stub):
    assert tools.notes(PHOTOS, {"stub": stub}) == [
        "22 photos: 10 neutral, 10 happy, 2 contempt",
        "not in macro scores, fewer than 10 photos: contempt (2)",
        "stub has no class contempt",
        "stub also has anger",
    ]


def test_photos_of_a_split(tmp_path):
    path = write_manifest(
        tmp_path, [("happiness", "train"), ("anger", "test"), ("", "test"), ("happiness", "test")]
    )
    photos = tools.read_photos(str(path), "test")
    assert photos.paths == [str(tmp_path / "1.png"), str(tmp_path / "3.png")]
    assert [photos.class_names[i] for i in photos.labels] == ["anger", "happy"]
    assert len(tools.read_photos(str(path)).paths) == 3
    with pytest.raises(UserError, match="no photo with an expression in the split validation"):
        tools.read_photos(str(path), "validation")


def test_manifests_that_do_not_fit(tmp_path):
    path = write_manifest(tmp_path, [("anger", "test"), ("happiness", "test")])
    without = tmp_path / "without.csv"
    without.write_text("path,expression\n0.png,anger\n1.png,happiness\n")
    with pytest.raises(UserError, match="no column `split`"):
        tools.read_photos(str(without), "test")
    path.write_text(
        "path,expression,x0,y0,x1,y1\n0.png,anger,0,0,20,20\n0.png,happiness,40,0,60,20\n"
    )
    with pytest.raises(UserError, match="more than once"):
        tools.read_photos(str(path))
    with pytest.raises(UserError, match="missing"):
        tools.read_photos(str(tmp_path / "missing.csv"))


def test_the_command(tmp_path, monkeypatch, capsys, stub):
    worker, result = tmp_path / "worker.py", tmp_path / "rows.json"
    worker.write_text(STUB_WORKER)
    monkeypatch.setattr(fer_worker, "__file__", str(worker))
    monkeypatch.setattr(
        tools, "ours", lambda paths, model: Answers(("anger", "happy"), np.eye(2), 1.0)
    )
    path = write_manifest(tmp_path, [("anger", "test"), ("happiness", "test")])
    assert command.main(["tools", "--manifest", str(path), "--json", str(result)]) == 0
    rows = {(r["case"], r["metric"]): r["value"] for r in json.loads(result.read_text())}
    assert rows["ours", "accuracy"] == 1
    assert rows["fer 1, whole picture", "accuracy"] == 0.5
    assert rows["fer 1, whole picture", "faces_per_second"] == 1
    assert rows["fer 1, own detector", "accuracy"] == 0
    assert rows["fer 1, own detector", "faces_found"] == 0.5
    assert rows["fer 1, own detector", "nll"] == pytest.approx(-math.log(0.25))
    assert "2 photos: 1 happy, 1 anger" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            'import sys; open(sys.argv[2], "w").write(\'{"missing": "no fer"}\')',
            "import fer .no fer",
        ),
        ('raise SystemExit("no memory")', "fer failed in .*no memory"),
    ],
)
def test_errors_of_fer_name_the_extra(tmp_path, monkeypatch, script, message):
    worker = tmp_path / "worker.py"
    worker.write_text(script)
    monkeypatch.setattr(fer_worker, "__file__", str(worker))
    with pytest.raises(UserError, match=rf"{message}.*\[peers\].*--fer_python"):
        tools.fer(["a.png"], tools.sys.executable)
    with pytest.raises(UserError, match=r"does not run .*\[peers\]"):
        tools.fer(["a.png"], str(tmp_path / "python"))


def test_fer_gets_no_flags_of_our_xla(tmp_path, monkeypatch):
    """Its TensorFlow would end at a flag that it does not know."""
    worker = tmp_path / "worker.py"
    worker.write_text('import os; raise SystemExit("flags " + os.environ.get("XLA_FLAGS", "none"))')
    monkeypatch.setattr(fer_worker, "__file__", str(worker))
    monkeypatch.setenv("XLA_FLAGS", f"--a=1 {xla_flags._PREDICTION}")
    with pytest.raises(UserError, match=r": flags --a=1;"):
        tools.fer(["a.png"], tools.sys.executable)


@pytest.mark.slow
def test_ours_reads_photos_by_the_whole_pipeline(tmp_path):
    model = media.save_tiny_model(tmp_path / "model")
    paths = [str(tmp_path / name) for name in ("face.png", "nothing.png")]
    for path, image in zip(paths, (media.faces()[0], np.zeros((96, 96, 3), np.uint8)), strict=True):
        Image.fromarray(image).save(path)
    answers = tools.ours(paths, str(model))
    assert answers.class_names == media.CLASSES
    assert answers.probabilities[0].sum() == pytest.approx(1, abs=1e-6)
    assert np.isnan(answers.probabilities[1]).all()
    assert answers.seconds > 0
