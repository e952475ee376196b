"""The description of a sweep: mistakes, metrics that exist, random draws."""

import numpy as np
import pytest

from affect_jax.config import ConfigError
from affect_jax.experiments import sweep_file
from configs.sweeps import faces
from tests.affect_jax.experiments.sweeps import PLAIN, run_sweep, write_sweep


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ('"rows": {}', "no rows"),
        ('"rwos": {"a": {}}', "did you mean 'rows'"),
        ('"rows": {"a": {"loss.regresion": "ccc"}}', "did you mean 'loss.regression'"),
        ('"rows": {"a": {"batch_size": "many"}}', "batch_size"),
        ('"rows": {"a": {"seed": 3}}', "remove seed"),
        ('"rows": {"a/b": {}}', "names a folder"),
        ('"rows": {"a": {}}, "reference": "b"', "no row 'b'"),
        ('"rows": {"a": {}}, "rank_by": "accuracy"', "use a validation/"),
        ('"rows": {"a": {}}, "rank_by": "validation/los"', "did you mean 'validation/loss'"),
        ('"rows": {"a": {}}, "columns": ("acuracy",)', "did you mean 'accuracy'"),
        ('"rows": {"a": {}}, "rank_by": "validation/loss", "cell": "crossval"', "no validation"),
        ('"rows": {"a": {"init_from": "stage:trunk"}}', "no such stage"),
        ('"rows": {"a": {}}, "seeds": (0, 0)', "distinct"),
        ('"random": {"draws": 2, "ranges": {"seed": ("log", 0, 1)}}', "low above 0"),
        (PLAIN + ', "grid": {"column": "accuracy"}', "it needs column, corner, across, lines"),
        (
            PLAIN
            + ', "grid": {"column": "accuracy", "corner": "", "across": ["a"], "lines": {"x": []}}',
            "line 'x' has 0 rows for 1 columns",
        ),
    ],
)
def test_mistakes_end_before_anything_is_trained(described, message, fakes, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_sweep(write_sweep(tmp_path, described), tmp_path / "w")
    assert not fakes


@pytest.mark.parametrize(
    "column",
    ["test_flip/accuracy", "test_flip/nme", "test_flip/loss", "test_flip/recall_sad",
     "test_video/nme", "test_mirror/valence_ccc", "test_mirror/temperature",
     "test_banks/accuracy", "test_bank64/acuracy", "test_bank/accuracy_sd"],
)  # fmt: skip
def test_columns_of_what_is_not_averaged_are_refused(column):
    with pytest.raises(ConfigError, match=f"there is no metric '{column}'"):
        sweep_file.Sweep(rows={"a": {}}, columns=(column,))


def test_columns_of_what_is_averaged():
    columns = ("test_flip/valence_ccc", "test_mirror/accuracy", "test_video/accuracy")
    columns += ("test_video/recall_sad", "test_temperature/temperature", "test_self/accuracy")
    columns += ("test_bank64/nll", "test_bank64/recall_sad", "test_batch/accuracy_sd")
    assert sweep_file.Sweep(rows={"a": {}}, columns=columns).columns == columns


def test_draws_are_functions_of_seed_and_number():
    ranges = {"a": ("log", 1e-4, 1e-2), "b": ("uniform", 0.0, 0.999)}
    few, many = (sweep_file.draw_rows(n, ranges) for n in (3, 400))
    assert all(many[name] == changes for name, changes in few.items())
    assert sweep_file.draw_rows(3, ranges, seed=1) != few
    only = sweep_file.draw_rows(400, {"b": ranges["b"]})
    assert [r["b"] for r in only.values()] == [r["b"] for r in many.values()]
    logs = np.log10([r["a"] for r in many.values()])
    assert -4 <= logs.min() < -3.9 and -2.1 < logs.max() <= -2
    assert abs(logs.mean() + 3) < 0.1


def test_the_sweep_over_faces_takes_what_is_given_for_both_rows():
    config = faces.get_config()
    config.data.folder, config.data.source = "photos", "folder"
    rows = faces.get_sweep(config)["rows"]
    given = {"data.folder", "data.source", "data.manifest", "data.classes", "seed"}
    assert not given & rows["ResNet-18"].keys() and "data" not in rows["ResNet-18"]
    assert rows["ResNet-18"]["model"]["name"] == "resnet18" and rows["EmoFAN"] == {}
