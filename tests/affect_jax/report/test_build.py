"""Pictures, stored predictions, results page and the HTML of a finished run."""

import base64
import csv
import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.evaluation import predictions
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.report import page, published, render, write_html, write_report
from affect_jax.report.__main__ import main
from affect_jax.report.figures import confusion, curves, faces, style
from affect_jax.runtime import MetricWriter

NAMES = ("neutral", "happy <b>", "sad", "surprise")
SOURCE = SimpleNamespace(class_names=NAMES, describe=lambda i: f"faces.csv:{i + 2} (img/{i}.jpg)")
PICTURES = {
    "training_curves", "confusion_matrix", "reliability", "valence_arousal", "landmark_error",
    "faces",
}  # fmt: skip
SIZE = 48


def make_outputs(count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    expression = np.arange(count, dtype=np.int32) % len(NAMES)
    expression[7] = -1
    logits = rng.normal(size=(count, len(NAMES)))
    logits[np.arange(count), expression] += 1.5
    valence_arousal = rng.uniform(-0.9, 0.9, (count, 2)).astype(np.float32)
    valence_arousal[3] = np.nan
    landmarks = rng.uniform(5, SIZE - 5, (count, 68, 2))
    landmarks[5] = np.nan
    landmarks[6, 20] = np.nan
    noise = rng.normal(size=(count, 2)) * 0.2
    predicted = np.nan_to_num(valence_arousal) + noise
    return {
        "index": np.arange(count) * 3,
        "expression": expression,
        "logits": logits,
        "valence_arousal": valence_arousal,
        "valence": predicted[:, 0],
        "arousal": predicted[:, 1],
        "true_landmarks": landmarks,
        "landmarks": np.nan_to_num(landmarks, nan=9.0) + rng.normal(size=landmarks.shape),
    }


def make_batches(outputs: dict[str, np.ndarray]):
    rng = np.random.default_rng(1)
    for first in range(0, len(outputs["index"]), 16):
        index = outputs["index"][first : first + 16]
        # Plain colours: noise makes large pictures, which take long to write.
        colours = rng.integers(0, 255, (len(index), 1, 1, 3), dtype=np.uint8)
        images = np.broadcast_to(colours, (len(index), SIZE, SIZE, 3))
        yield {"image": images, "index": index, "mask": np.ones(len(index), bool)}


def write_metrics(workdir, *, final: bool = True) -> None:
    with MetricWriter(workdir) as writer:
        for step in range(10, 60, 10):
            values = {"loss": 5.0 / step, "images_per_second": 100.0, "input_wait_share": 0.01}
            writer.write(step, "train", values)
            writer.write(step, "validation", {"loss": 6.0 / step, "accuracy": step / 100})
        if final:
            writer.write(50, "test_flip", {"valence_ccc": 0.75})
            row = {"checkpoint": 40, "accuracy": 0.5, "valence_ccc": 0.625, "ece": None}
            row |= {"images": 60, "images_total": 64}
            writer.write(50, "test", row, final=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "my <run>"
    write_metrics(folder)
    (folder / "config.json").write_text(json.dumps({"seed": 3, "model": {"name": "emofan"}}))
    outputs = make_outputs()
    references = {"EmoFAN paper": published.emofan("affectnet8")["EmoFAN F+R+C+A+S+D"]}
    write_report(folder, outputs, SOURCE, batches=make_batches(outputs), references=references)
    return folder


def test_report_holds_every_picture_small_enough(workdir):
    pictures = {path.stem: path.read_bytes() for path in (workdir / "report").glob("*.png")}
    assert set(pictures) == PICTURES
    for name, content in pictures.items():
        assert content.startswith(b"\x89PNG") and 5_000 < len(content) < 500_000, name
    assert not list((workdir / "report").glob(".*"))


def test_results_page_shows_measured_and_published_numbers(workdir):
    text = (workdir / "report/results.md").read_text()
    assert page.NOTICE in text and page.REFERENCE_NOTE in text
    assert "|  | plain | flip-averaged | EmoFAN paper |" in text
    assert "| CCC ↑ | 0.625 | 0.750 | 0.730 |" in text
    assert "| accuracy ↑ | 0.500 | - | 0.620 |" in text and page.FLIP_NOTE in text
    assert "step 40, best" in text and "100 images/s" in text
    assert "test images: 60 of 64 (4 could not be read)" in text
    assert all(f"]({name}.png)" in text for name in PICTURES)


def test_every_prediction_leads_to_its_file(workdir):
    outputs = make_outputs()
    with open(workdir / "report/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for i in (0, 7, 59):
        row, index = rows[i], int(outputs["index"][i])
        assert int(row["index"]) == index and row["source"] == SOURCE.describe(index)
        label = int(outputs["expression"][i])
        assert row["expression"] == (NAMES[label] if label >= 0 else "")
        assert row["expression_predicted"] == NAMES[outputs["logits"][i].argmax()]
        assert sum(float(row[f"p_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-4)
        assert float(row["valence_predicted"]) == pytest.approx(outputs["valence"][i], abs=1e-4)
    assert rows[3]["valence"] == "" and rows[5]["nme"] == ""


def test_stored_errors_and_calibration_are_those_of_the_metrics(workdir):
    outputs = make_outputs()
    stored = predictions.load(workdir / "report")
    metrics = LandmarkStatistics().update(outputs["landmarks"], outputs["true_landmarks"])
    assert np.nanmean(stored["nme"]) == pytest.approx(metrics.compute()["nme"], rel=1e-6)
    expected = ClassificationStatistics(len(NAMES), NAMES)
    expected.update(outputs["logits"], outputs["expression"])
    figure = confusion.reliability_diagram(stored["probabilities"], stored["expression"])
    title = figure.axes[0].get_title(loc="left")
    assert title == f"Calibration error (ECE) {expected.compute()['ece']:.3f}"


def test_faces_are_those_of_their_rows(workdir):
    outputs = make_outputs()
    stored = predictions.load(workdir / "report")
    images = {int(i): im for b in make_batches(outputs) for i, im in zip(b["index"], b["image"])}  # noqa: B905
    assert len(stored["face_row"]) == 12
    for k, row in enumerate(stored["face_row"]):
        np.testing.assert_array_equal(stored["face_image"][k], images[int(outputs["index"][row])])
        np.testing.assert_allclose(
            stored["face_landmarks_predicted"][k], outputs["landmarks"][row], rtol=1e-6
        )


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.images, self.text, self.open, self.links = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes["src"])
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_is_one_file_with_everything_in_it(workdir, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    assert main(["--workdir", str(workdir), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    parsed = _Page(output.read_text())
    assert not parsed.open and not parsed.links
    inside = {base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in parsed.images}
    assert inside == {path.read_bytes() for path in (workdir / "report").glob("*.png")}
    assert "Results of my <run>" in parsed.text and page.NOTICE in parsed.text
    assert "0.625" in parsed.text and '"name": "emofan"' in parsed.text
    assert "60 of 64 (4 could not be read)" in parsed.text


def test_html_goes_into_the_report_folder_by_default(tmp_path):
    write_metrics(tmp_path)
    write_report(tmp_path, {"index": np.arange(2)}, SOURCE)
    path = write_html(tmp_path)
    assert path == tmp_path / "report/report.html" and len(_Page(path.read_text()).images) == 1


def test_html_of_a_folder_is_an_error(workdir, tmp_path, capsys):
    assert main(["--workdir", str(workdir), "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("absent", "no such folder"),
        ("empty", r"is not the folder of a run: it holds no metrics\.jsonl"),
        ("training", "stopped at step 50, before its test"),
        ("no predictions", r"left no report/predictions\.npz"),
        ("broken config", r"config\.json is not valid JSON"),
    ],
)
def test_workdirs_without_a_finished_evaluation(tmp_path, capsys, state, message):
    folder = tmp_path / "run"
    if state != "absent":
        folder.mkdir()
    if state in ("training", "no predictions", "broken config"):
        write_metrics(folder, final=state != "training")
    if state == "broken config":
        outputs = {"index": np.arange(2)}
        write_report(folder, outputs, SOURCE)
        (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=message):
        write_html(folder)
    assert main(["--workdir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("affect_jax.report: ") and error.count("\n") == 1


def test_a_model_without_some_outputs_has_the_other_pictures(tmp_path):
    write_metrics(tmp_path)
    outputs = make_outputs()
    (tmp_path / "report").mkdir()
    (tmp_path / "report/valence_arousal.png").write_bytes(b"of an earlier model")
    kept = {k: outputs[k] for k in ("index", "expression", "logits")}
    write_report(tmp_path, kept, SOURCE, batches=make_batches(outputs))
    shown = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert shown == {"training_curves", "confusion_matrix", "reliability", "faces"}
    header = (tmp_path / "report/predictions.csv").read_text().splitlines()[0]
    assert header.startswith("index,source,expression,") and "valence" not in header


def test_without_labels_only_what_needs_none_is_drawn(tmp_path):
    write_metrics(tmp_path)
    outputs = make_outputs()
    for name in ("expression", "valence_arousal", "true_landmarks"):
        del outputs[name]
    write_report(tmp_path, outputs, SOURCE, batches=make_batches(outputs))
    shown = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert shown == {"training_curves", "faces"}


def test_a_figure_that_fails_leaves_the_old_one(workdir, monkeypatch):
    path = workdir / "report/confusion_matrix.png"
    before = path.read_bytes()

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(confusion, "confusion_matrix", fail)
    with pytest.raises(RuntimeError):
        render(workdir)
    assert path.read_bytes() == before


def test_chosen_faces_are_spread_over_classes_whatever_was_predicted():
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    outputs = {"index": np.arange(111) + 5, "expression": labels}
    chosen = predictions.choose_faces(outputs, 7)
    assert len(set(chosen)) == 7
    assert np.bincount(labels[np.array(chosen) - 5]).tolist() == [3, 3, 1]
    assert sorted(predictions.choose_faces({"index": np.arange(3)}, 7)) == [0, 1, 2]


def test_fetching_faces_skips_padding_and_stops_when_done():
    def batches():
        yield {"image": np.zeros((2, 4, 4, 3), np.uint8), "index": [1, 2], "mask": [False, True]}
        yield {"image": np.ones((2, 4, 4, 3), np.uint8), "index": [1, 3], "mask": [True, True]}
        pytest.fail("read on although all faces were there")

    found = predictions.fetch_faces(batches(), [1, 2])
    assert list(found) == [1, 2] and found[1].max() == 1 and found[2].max() == 0


def test_confusion_matrix_counts():
    true, predicted = np.array([0, 0, 0, 1, -1]), np.array([0, 0, 1, 1, 0])
    figure = confusion.confusion_matrix(true, predicted, ["a", "b", "c"])
    axes = figure.axes[0]
    np.testing.assert_allclose(
        axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]]
    )
    assert [t.get_text() for t in axes.texts] == ["67%", "2", "33%", "1", "100%", "1", "no images"]
    assert axes.get_title(loc="left") == (
        "Accuracy 75.0%, balanced 83.3%\n(over the 2 of 3 classes with enough images)"
    )
    assert [t.get_text() for t in axes.get_yticklabels()][:2] == ["a  (3)", "b  (1)"]


def test_confusion_matrix_balances_over_the_classes_that_the_table_counts():
    true, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    figure = confusion.confusion_matrix(true, predicted, ["a", "b", "c"], min_count=2)
    expected = ClassificationStatistics(3, min_count=2).update(np.eye(3)[predicted], true).compute()
    assert expected["balanced_accuracy"] == pytest.approx(2 / 3)
    title = figure.axes[0].get_title(loc="left")
    assert title == ("Accuracy 75.0%, balanced 66.7%\n(over the 1 of 3 classes with enough images)")


def test_predictions_that_are_no_numbers_are_left_out_and_said(tmp_path):
    write_metrics(tmp_path)
    outputs = make_outputs(8)
    outputs["logits"][2] = np.nan
    outputs["valence"][3] = np.inf
    write_report(tmp_path, outputs, SOURCE)
    assert "without a finite prediction: 2" in (tmp_path / "report/results.md").read_text()
    with open(tmp_path / "report/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["expression_predicted"] == "" == rows[3]["valence_predicted"]


def test_landmark_error_curve_figures():
    figure = curves.landmark_error_curve(np.array([0.02, 0.04, np.nan, 0.16]))
    # Area: mean of (.08 - e)/.08 over the errors, none below 0: (.75 + .5 + 0)/3
    assert figure.axes[0].get_title(loc="left") == "Area up to 8%: 0.417, failures 33.3%"


@pytest.mark.parametrize("points", [1, 2, 2000])
def test_training_curves_of_any_length(points):
    rows = [{"step": i + 1, "split": "train", "loss": 1.0 / (i + 1)} for i in range(points)]
    rows.append({"step": points, "split": "validation", "accuracy": None, "nme": 0.05})
    figure = curves.training_curves(rows, best_step=points)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Landmark error (NME)"]
    assert len(style.png(figure, dpi=50)) > 1000


def test_stages_have_loss_panels_of_their_own():
    rows = [
        {"step": s, "split": "train", "stage": "landmarks" if s < 20 else "emotion",
         "loss": 0.01 if s < 20 else 7.0}
        for s in range(1, 61)
    ]  # fmt: skip
    rows += [{"step": s, "split": "validation", "loss": 4.0, "nme": 0.1} for s in (15, 30, 60)]
    figure = curves.training_curves(rows, best_step=60)
    first, second, metric = figure.axes
    assert first.get_title(loc="left") == "Loss of the stage “landmarks”"
    assert second.get_title(loc="left") == "Loss of the stage “emotion”"
    shown = {line.get_label(): line.get_xdata() for line in second.lines}
    np.testing.assert_array_equal(shown["validation"], [30, 60])
    assert np.max([line.get_ydata().max() for line in first.lines]) < 1
    assert first.get_xlim()[1] < 21 and second.get_xlim()[0] > 18
    assert any(np.ravel(line.get_xdata())[0] == 20 for line in metric.lines)
    assert len(curves.training_curves(rows, 60, narrow=True).axes) == 3


def test_circumplex_of_one_and_of_many():
    rng = np.random.default_rng(0)
    for count in (1, 2000):
        true = rng.uniform(-1, 1, (count, 2))
        figure = faces.circumplex(true, true * 2, np.zeros(count, int), ["only"])
        assert len(style.png(figure, dpi=50)) > 1000
    assert figure.axes[2].get_title(loc="left").startswith("Valence: CCC 0.8")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves.training_curves([{"step": 1, "split": "train", "loss": None}]),
        lambda: confusion.confusion_matrix(np.array([-1]), np.array([0]), ["a"]),
        lambda: confusion.confusion_matrix(np.array([0]), np.array([2]), ["a"]),
        lambda: confusion.reliability_diagram(np.ones((1, 2)) / 2, np.array([-1])),
        lambda: curves.landmark_error_curve(np.array([np.nan])),
        lambda: faces.circumplex(np.full((1, 2), np.nan), np.zeros((1, 2))),
        lambda: faces.landmark_faces(np.zeros((0, 8, 8, 3), np.uint8)),
    ],
)
def test_figures_of_nothing_are_errors(draw):
    with pytest.raises(ValueError, match=r"^(training|confusion|reliab|landmark|circumplex)\w*: "):
        draw()


def test_a_picture_too_large_is_rendered_coarser():
    noise = np.random.default_rng(0).integers(0, 255, (4, 256, 256, 3), dtype=np.uint8)
    content = style.png(faces.landmark_faces(noise))
    assert 200_000 < len(content) < 500_000


def test_figures_leave_the_users_style_alone():
    import matplotlib

    with matplotlib.rc_context({"font.size": 31, "axes.grid": True}):
        figure = curves.landmark_error_curve(np.array([0.05]))
        assert figure.axes[0].xaxis.label.get_size() == 9
        assert matplotlib.rcParams["font.size"] == 31


def test_published_numbers():
    table = published.emofan("affectnet8")
    assert table["EmoFAN F+R+C+A+S+D"]["valence_ccc"] == 0.73
    assert "accuracy" not in table["EmoFAN F+R"] and len(table["EmoFAN F+R"]) == 8
    with pytest.raises(ValueError, match=r"'jaffe'.*affectnet8"):
        published.emofan("jaffe")
