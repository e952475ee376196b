"""Baselines: predictors that look at hardly anything."""

import json
import subprocess
import sys

import numpy as np
import pytest

from affect_jax import config as config_lib
from affect_jax.evaluation import baseline
from tests.affect_jax import tiny


def _classes(rng, n):
    labels = rng.integers(0, 3, n)
    centres = np.array([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]])
    features = centres[labels] + rng.normal(size=(n, 3))
    return np.concatenate([features, np.ones((n, 1))], axis=1), labels


def test_logistic_regression_is_at_its_minimum():
    features, labels = _classes(np.random.default_rng(0), 400)
    weights = baseline.fit_logistic(features, labels, 3, penalty=0.01)
    assert ((features @ weights).argmax(1) == labels).mean() > 0.9
    scores = features @ weights
    probability = np.exp(scores - scores.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    shrunk = np.where(np.arange(4)[:, None] == 3, 0, weights)
    gradient = features.T @ (probability - np.eye(3)[labels]) / len(labels) + 0.01 * shrunk
    assert np.abs(gradient).max() < 1e-3


def test_ridge_finds_a_linear_relation():
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(size=(200, 5)), np.ones((200, 1))], axis=1)
    true = rng.normal(size=(6, 2))
    np.testing.assert_allclose(baseline.fit_ridge(features, features @ true, 1e-9), true, atol=1e-6)


def test_grey_pixels_forget_contrast_after_standardising():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    pixels = baseline.grey_pixels(images)
    assert pixels.shape == (6, 1024) and pixels.min() >= 0 and pixels.max() <= 1
    standardise = baseline.Standardiser(pixels)
    np.testing.assert_allclose(standardise(pixels * 0.5 + 0.1), standardise(pixels), atol=0.05)


def test_command_measures_the_data_of_a_run(tmp_path, capsys):
    config = tiny.config(data__synthetic__num_train=48, data__synthetic__num_test=24)
    config_lib.claim_workdir(tmp_path, config)
    assert baseline.main(["--workdir", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "report" / "baseline.json").read_text())
    assert set(results) == {"constant", "linear, 32 x 32 grey pixels"}
    assert results["constant"]["valence_ccc"] == 0
    assert 0 <= results["constant"]["accuracy"] < 1
    out = capsys.readouterr().out
    assert "accuracy" in out and out.startswith("test split, 24 images\n")
    assert (results["constant"]["images"], results["constant"]["images_total"]) == (24, 24)


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_no_run_is_an_error_of_one_line(what, tmp_path, caplog):
    folder = tmp_path / "run"
    if what == "empty":
        folder.mkdir()
    assert baseline.main(["--workdir", str(folder)]) == 2
    assert "not the workdir of a run" in caplog.text


def test_the_error_is_said_once(tmp_path):
    command = [sys.executable, "-m", "affect_jax.evaluation.baseline", "--workdir", str(tmp_path)]
    done = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("not the workdir of a run") == 1
