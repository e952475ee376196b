import dataclasses
import json
import types

import ml_collections
import numpy as np
import pytest

from affect_jax import batches, export
from affect_jax.errors import UserError
from affect_jax.exporting.temperature import fitted, of_evaluation
from affect_jax.metrics.calibration import fit_temperature
from affect_jax.models.preprocessing import Preprocessing
from tests.affect_jax import tiny_models

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


@pytest.fixture
def model():
    return tiny_models.make(*tiny_models.SYSTEMS["features"])


def test_an_evaluation_of_the_model_directory_itself(tmp_path, model):
    place = tmp_path / "mean"
    expected = stored(tmp_path, model=str(place), model_sha256=model.digest())
    folder = tmp_path / "report/evaluations/validation-7-2"
    assert of_evaluation(folder, model, tmp_path / "other/../mean") == expected
    warm = dataclasses.replace(model, temperature=2.0, provenance={"step": 1})
    assert of_evaluation(folder, warm, place) == expected
    for change in ({"class_names": ("a", "b", "c")}, {"preprocessing": Preprocessing(48)}):
        with pytest.raises(UserError, match=r"is an evaluation of other weights or settings than"):
            of_evaluation(folder, dataclasses.replace(model, **change), place)
    with pytest.raises(UserError, match=r"is an evaluation of .*/mean, not of .*/another"):
        of_evaluation(folder, dataclasses.replace(model, name="b"), tmp_path / "another")
    model.model.head.bias.set_value(model.model.head.bias[...] + 1)  # trained on, saved there
    with pytest.raises(UserError, match=r"other weights or settings than .*/mean has now"):
        of_evaluation(folder, model, place)


@pytest.mark.parametrize(
    ("split", "folder", "why"),
    [
        ("test", "b", "split test, and results on the test split would then be too good"),
        ("train", "b", "split train, and the model was or may have been trained on these"),
        ("all", "a", "split all, and the model was or may have been trained on these"),
        ("all", "b", ""),
        ("validation", "a", ""),
    ],
)
def test_images_that_a_temperature_may_be_fitted_on(tmp_path, model, split, folder, why):
    data = ml_collections.ConfigDict({**CONFIG["data"], "folder": str(tmp_path / folder)})
    trained = {"data": {**CONFIG["data"], "folder": str(tmp_path / "a")}}
    model = dataclasses.replace(model, provenance={"workdir_config": trained})
    place = batches.place_of(data)
    expected = stored(tmp_path, split=split, model_sha256=model.digest(), **place)
    (found,) = (tmp_path / "report/evaluations").iterdir()
    if why:
        with pytest.raises(UserError, match=why):
            of_evaluation(found, model, tmp_path)
    else:
        assert of_evaluation(found, model, tmp_path) == expected


def test_other_folders_give_no_temperature(tmp_path, model):
    stored(tmp_path)
    folders = tmp_path / "report/evaluations"
    with pytest.raises(UserError, match="is an evaluation of step 7 of a run, not of"):
        of_evaluation(folders / "validation-7-0", model, tmp_path)
    with pytest.raises(UserError, match=r"holds no evaluation .*--config\.init_from="):
        of_evaluation(folders, model, tmp_path)


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
