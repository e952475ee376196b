import json
import types

import ml_collections
import numpy as np
import pytest

from affect_jax import export
from affect_jax.errors import UserError
from affect_jax.exporting.temperature import fitted, of_evaluation
from affect_jax.metrics.calibration import fit_temperature

CONFIG = {"data": {"source": "folder", "folder": "a", "image_size": 32}}


def stored(workdir, *, split="validation", step=7, data=CONFIG["data"], scale=3.0, **more):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 4))
    labels = np.array([rng.choice(4, p=np.exp(z) / np.exp(z).sum()) for z in logits])
    folder = workdir / "report" / "evaluations" / f"{split}-{step}-{len(more)}"
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", logits=scale * logits, expression=labels)
    record = {"split": split, "checkpoint": step, "data": data, **more}
    (folder / "evaluation.json").write_text(json.dumps(record))
    return fit_temperature(scale * logits, labels).value


def rows(workdir, *, checkpoint):
    lines = [
        {"step": 9, "split": "test_temperature", "time": 1.0, "temperature": 1.75},
        {"step": 9, "split": "test", "time": 1.0, "final": True, "checkpoint": checkpoint},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)


def test_it_fits_the_stored_predictions_of_the_validation_split(tmp_path):
    rows(tmp_path, checkpoint=7)
    expected = stored(tmp_path)
    assert expected == pytest.approx(3, rel=0.3)
    assert fitted(tmp_path, 7, CONFIG) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"split": "test"},
        {"step": 6},
        {"data": {**CONFIG["data"], "folder": "b"}},
        {"model": "/models/another"},
    ],
)
def test_predictions_of_something_else_do_not_count(tmp_path, other):
    stored(tmp_path, **other)
    with pytest.raises(UserError, match="no predictions of step 7 on its validation split"):
        fitted(tmp_path, 7, CONFIG)
    rows(tmp_path, checkpoint=6)
    with pytest.raises(UserError, match=r"config\.eval\.split=validation"):
        fitted(tmp_path, 7, CONFIG)
    rows(tmp_path, checkpoint=7)
    assert fitted(tmp_path, 7, CONFIG) == 1.75


def test_an_evaluation_of_the_model_directory_itself(tmp_path):
    model = tmp_path / "mean"
    expected = stored(tmp_path, model=str(model))
    folder = tmp_path / "report/evaluations/validation-7-1"
    assert of_evaluation(folder, tmp_path / "other/../mean") == expected
    with pytest.raises(UserError, match=r"is an evaluation of .*/mean, not of .*/another"):
        of_evaluation(folder, tmp_path / "another")


def test_evaluations_that_a_temperature_may_not_be_fitted_on(tmp_path):
    model = tmp_path / "mean"
    stored(tmp_path, split="test", model=str(model))
    stored(tmp_path)
    folders = tmp_path / "report/evaluations"
    with pytest.raises(UserError, match="is an evaluation on the test split"):
        of_evaluation(folders / "test-7-1", model)
    with pytest.raises(UserError, match="is an evaluation of step 7 of a run, not of"):
        of_evaluation(folders / "validation-7-0", model)
    with pytest.raises(UserError, match=r"holds no evaluation .*--config\.init_from="):
        of_evaluation(folders, model)


def test_a_temperature_belongs_to_the_weights_that_are_written(tmp_path, capsys, monkeypatch):
    run = types.SimpleNamespace(config=ml_collections.ConfigDict(CONFIG), step=7)
    monkeypatch.setattr(export.load_run, "load_run", lambda *_: run)
    command = ["--workdir", "w", "--output", str(tmp_path / "m"), "--temperature"]
    assert export.main([*command, "auto", "--average_with", "b"]) == 2
    assert "would fit the run's own weights, not the mean with b" in capsys.readouterr().err
    assert export.main([*command, str(tmp_path)]) == 2
    assert "the evaluation of a model belongs to --model" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "warm"])
def test_wrong_temperatures(text, capsys):
    with pytest.raises(SystemExit) as error:
        export.main(["--workdir", "w", "--output", "m", "--temperature", text])
    assert error.value.code == 2
    assert f"'{text}' is neither a positive number nor auto nor a folder" in capsys.readouterr().err
