import json

import numpy as np
import pytest

from affect_jax import export
from affect_jax.errors import UserError
from affect_jax.exporting.temperature import fitted
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


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "warm"])
def test_wrong_temperatures(text, capsys):
    with pytest.raises(SystemExit) as error:
        export.main(["--workdir", "w", "--output", "m", "--temperature", text])
    assert error.value.code == 2
    assert f"'{text}' is neither a positive number nor auto" in capsys.readouterr().err
