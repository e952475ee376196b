"""The report of a finished run: figures, results page, HTML, and what is refused."""

import base64
import csv

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.metrics.regression import RegressionStatistics
from affect_jax.report import page, render, write_html
from affect_jax.report.__main__ import main
from affect_jax.report.figures import confusion
from affect_jax.report.run import read_run
from affect_jax.report.run_figures import FIGURES
from tests.affect_jax.report.made_up_run import (
    NAMES,
    PICTURES,
    Page,
    finished_run,
    make_batches,
    make_outputs,
    write_metrics,
    write_report,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "my <run>")


def test_report_holds_every_picture_small_enough(workdir):
    pictures = {path.stem: path.read_bytes() for path in (workdir / "report").glob("*.png")}
    assert set(pictures) == PICTURES
    for name, content in pictures.items():
        assert content.startswith(b"\x89PNG") and 5_000 < len(content) < 500_000, name
    assert not list((workdir / "report").glob(".*"))


def test_results_page_shows_what_was_measured(workdir):
    text = (workdir / "report/results.md").read_text()
    assert page.NOTICE in text
    assert "|  | plain | flip-averaged |" in text
    assert "| CCC ↑ | 0.625 | 0.750 |" in text
    assert "| accuracy ↑ | 0.500 | - |" in text and page.FLIP_NOTE in text
    assert "step 40, best" in text and "100 images/s" in text
    assert "test images: 60 of 64 (4 could not be read)" in text
    assert all(f"]({name}.png)" in text for name in PICTURES)


def test_titles_of_figures_are_the_metrics_of_the_predictions(workdir):
    outputs = make_outputs()
    classes = ClassificationStatistics(len(NAMES)).update(outputs["logits"], outputs["expression"])
    predicted = np.stack([outputs["valence"], outputs["arousal"]], axis=1)
    emotion = RegressionStatistics().update(predicted, outputs["valence_arousal"]).compute()
    points = LandmarkStatistics().update(outputs["landmarks"], outputs["true_landmarks"]).compute()
    expected = {
        "confusion_matrix": f"Accuracy {classes.compute()['accuracy']:.1%}, balanced",
        "calibration": f"Calibration error (ECE) {classes.compute()['ece']:.3f}",
        "valence_arousal": f"Arousal: CCC {emotion['arousal_ccc']:.3f}, RMSE",
        "landmark_error": f"Area up to 8%: {points['nme_auc']:.3f}, failures",
    }
    run = read_run(workdir)
    for name, title in expected.items():
        figure = FIGURES[name].draw(run, False)
        assert any(a.get_title(loc="left").startswith(title) for a in figure.axes), name


def test_html_is_one_file_with_everything_in_it(workdir, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    assert main(["--workdir", str(workdir), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    parsed = Page(output.read_text())
    assert not parsed.open and not parsed.links
    inside = {base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in parsed.images}
    assert inside == {path.read_bytes() for path in (workdir / "report").glob("*.png")}
    assert "Results of my <run>" in parsed.text and page.NOTICE in parsed.text
    assert "0.625" in parsed.text and '"name": "emofan"' in parsed.text
    assert "60 of 64 (4 could not be read)" in parsed.text


def test_html_goes_into_the_report_folder_by_default(tmp_path):
    write_metrics(tmp_path)
    write_report(tmp_path, {"index": np.arange(2)})
    path = write_html(tmp_path)
    assert path == tmp_path / "report/report.html" and len(Page(path.read_text()).images) == 1


def test_html_of_a_folder_is_an_error(workdir, tmp_path, capsys):
    assert main(["--workdir", str(workdir), "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("absent", "no such folder"),
        ("empty", r"is not the folder of a run: it holds no metrics\.jsonl"),
        ("training", "stopped at step 50, before its test"),
        ("no predictions", r"report/predictions\.npz is missing"),
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
        write_report(folder, outputs)
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
    write_report(tmp_path, kept, make_batches(outputs))
    shown = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert shown == {"training_curves", "confusion_matrix", "calibration", "faces"}
    header = (tmp_path / "report/predictions.csv").read_text().splitlines()[0]
    assert header.startswith("index,source,expression,") and "valence" not in header


def test_without_labels_only_what_needs_none_is_drawn(tmp_path):
    write_metrics(tmp_path)
    outputs = make_outputs()
    for name in ("expression", "valence_arousal", "true_landmarks"):
        del outputs[name]
    write_report(tmp_path, outputs, make_batches(outputs))
    shown = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert shown == {"training_curves", "faces"}


def test_a_figure_that_fails_leaves_the_old_one(workdir, monkeypatch):
    path = workdir / "report/confusion_matrix.png"
    before = path.read_bytes()

    def fail(*_, **__):
        raise RuntimeError("no ink")

    monkeypatch.setattr(confusion, "confusion_matrices", fail)
    with pytest.raises(RuntimeError):
        render(workdir)
    assert path.read_bytes() == before


def test_predictions_that_are_no_numbers_are_left_out_and_said(tmp_path):
    write_metrics(tmp_path)
    outputs = make_outputs(8)
    outputs["logits"][2] = np.nan
    outputs["valence"][3] = np.inf
    write_report(tmp_path, outputs)
    assert "without a finite prediction: 2" in (tmp_path / "report/results.md").read_text()
    with open(tmp_path / "report/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["expression_predicted"] == "" == rows[3]["valence_predicted"]
