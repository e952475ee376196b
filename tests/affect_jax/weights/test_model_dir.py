import dataclasses
import json
import pickle
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models import registry
from affect_jax.models.state import take_apart
from affect_jax.weights import model_dir
from affect_jax.weights.model_dir import Preprocessing
from data_pipelines.hierarchies.tree import Hierarchy

ARGUMENTS = {"width": 4, "n_expression": 3}
PREPROCESSING = Preprocessing(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))


@pytest.fixture(scope="module")
def model():
    return models.create("resnet18", **ARGUMENTS, seed=5)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    model_dir.save_model(
        path,
        "resnet18",
        {**ARGUMENTS, "dtype": jnp.float32, "axis_name": "data"},
        model,
        preprocessing=PREPROCESSING,
        class_names=("a", "b", "c"),
        provenance={"run": 7},
    )
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def edit(path, **changes):
    file = path / model_dir.MODEL_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_tree_over_the_classes_is_kept(model, saved, tmp_path):
    assert model_dir.load_model(saved).hierarchy is None
    tree = Hierarchy("mine", ("a", "b", "c"), ("x", "y"), (1, 0, 1))
    options = dict(preprocessing=PREPROCESSING, hierarchy=tree)
    classes = ("a", "b", "c")
    model_dir.save_model(
        tmp_path / "m", "resnet18", ARGUMENTS, model, class_names=classes, **options
    )
    loaded = model_dir.load_model(tmp_path / "m")
    assert loaded.hierarchy == tree and pickle.loads(pickle.dumps(loaded)).hierarchy == tree
    edit(tmp_path / "m", class_names=["b", "a", "c"])
    with pytest.raises(UserError, match=r"fine classes of the hierarchy \(a, b, c\) are not"):
        model_dir.load_model(tmp_path / "m")
    edit(tmp_path / "m", hierarchy={"name": "mine"})
    with pytest.raises(UserError, match=r"model\.json: a hierarchy needs exactly the keys"):
        model_dir.load_model(tmp_path / "m")
    with pytest.raises(UserError, match="are not the class_names"):
        model_dir.save_model(tmp_path / "n", "resnet18", ARGUMENTS, model, **options)


def test_a_saved_model_comes_back_whole(saved, model):
    loaded = model_dir.load_model(saved)
    for ours, theirs in zip(take_apart(loaded.model)[1:], take_apart(model)[1:], strict=True):
        assert ours.keys() == theirs.keys()
        for path in ours:
            np.testing.assert_array_equal(ours[path], theirs[path])
    assert loaded.name == "resnet18"
    assert loaded.arguments == {**ARGUMENTS, "dtype": "float32"}
    assert loaded.preprocessing == PREPROCESSING
    assert loaded.class_names == ("a", "b", "c")
    assert loaded.provenance == {"run": 7}
    assert loaded.model.stem_norm.use_running_average


def test_no_file_names_a_place_on_the_machine_that_wrote_it(saved):
    place = str(saved.parent).encode()
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if place in path.read_bytes()]


def test_the_temperature_is_kept(copy):
    assert model_dir.load_model(copy).temperature == 1.0
    edit(copy, temperature=1.5)
    loaded = model_dir.load_model(copy)
    assert loaded.temperature == 1.5 and pickle.loads(pickle.dumps(loaded)).temperature == 1.5
    known = dict(preprocessing=PREPROCESSING, temperature=loaded.temperature)
    model_dir.save_model(copy, loaded.name, loaded.arguments, loaded.model, **known)
    assert model_dir.load_model(copy).temperature == 1.5
    for wrong in (0, -1.0, "1", True, float("nan")):
        edit(copy, temperature=wrong)
        with pytest.raises(UserError, match="it must be a positive number"):
            model_dir.load_model(copy)


def test_a_later_preset_of_the_name_changes_no_saved_model(model, tmp_path, monkeypatch):
    small = dataclasses.replace(models.entry("resnet18"), preset=ARGUMENTS)
    monkeypatch.setitem(registry._REGISTRY, "small", small)
    model_dir.save_model(tmp_path / "model", "small", {}, model, preprocessing=PREPROCESSING)
    later = dataclasses.replace(small, preset={"width": 8})
    monkeypatch.setitem(registry._REGISTRY, "small", later)
    assert model_dir.load_model(tmp_path / "model").arguments == ARGUMENTS


def test_an_interrupted_save_leaves_the_old_model(copy, model, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_dir.json, "dumps", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model_dir.save_model(copy, "resnet18", ARGUMENTS, model, preprocessing=PREPROCESSING)
    monkeypatch.undo()
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
    assert model_dir.load_model(copy).provenance == {"run": 7}


def test_overrides_replace_constructor_arguments(saved):
    loaded = model_dir.load_model(saved, dtype="bfloat16")
    assert loaded.model.stem_conv.dtype == jnp.bfloat16
    with pytest.raises(UserError, match="no keyword 'dtyp'; did you mean 'dtype'"):
        model_dir.load_model(saved, dtyp="bfloat16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has format 99, this version of affect_jax reads 1"),
        ({"name": "resnet19"}, "no model is named 'resnet19'; did you mean 'resnet18'"),
        ({"arguments": {"width": 8}}, "lacks arrays of its model"),
        ({"preprocessing": {"image_size": 0}}, "positive image_size"),
        ({"preprocessing": {"image_size": 9.5}}, "positive image_size .a whole number"),
        ({"provenance": None}, "damaged.*provenance is not a dict"),
        ({"preprocessing": {"image_size": 9, "std": [0, 1, 1]}}, "3 positive deviations"),
        ({"preprocessing": {"image_size": 9, "mean": [float("nan"), 1, 1]}}, "numbers finite"),
        ({"preprocessing": {"image_size": 9, "fit": "crop"}}, "fit is 'crop'; use one of"),
        ({"preprocessing": {"image_size": 9, "crop": "nose"}}, "crop is 'nose'; use one of"),
        ({"preprocessing": []}, "damaged.*preprocessing is not a dict"),
        ({"arguments": [3]}, "damaged.*arguments is not a dict"),
        ({"checksums": "abc"}, "damaged.*checksums is not a dict"),
    ],
)
def test_a_description_that_does_not_fit(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(UserError, match=message):
        model_dir.load_model(copy)


def test_damaged_directories(copy, tmp_path):
    with pytest.raises(UserError, match="is not a model directory"):
        model_dir.load_model(tmp_path / "absent")
    shutil.rmtree(copy / "params")
    with pytest.raises(UserError, match="params cannot be read"):
        model_dir.load_model(copy)
    (copy / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model.json is damaged"):
        model_dir.load_model(copy)


def test_a_flipped_byte_is_found(copy):
    files = [p for p in (copy / "params").rglob("*") if p.is_file()]
    for path in files:
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
        name = path.relative_to(copy / "params").as_posix()
        with pytest.raises(UserError, match=f"(?s)params is damaged.*{re.escape(name)}"):
            model_dir.load_model(copy)
        path.write_bytes(data)
    (copy / "params" / "note.txt").write_text("of the user's")
    model_dir.load_model(copy)
    files[0].unlink()
    with pytest.raises(UserError, match=f"(?s)params is damaged.*{re.escape(files[0].name)}"):
        model_dir.load_model(copy)


def test_an_edited_description_is_warned_of(copy, caplog):
    model_dir.load_model(copy)
    assert "not as it was written" not in caplog.text
    edit(copy, temperature=1.5)
    assert model_dir.load_model(copy).temperature == 1.5
    assert (
        f"{copy / 'model.json'} is not as it was written: it was edited, or is damaged; if this "
        "was your edit, remove its key sha256" in caplog.text
    )
    caplog.clear()
    record = json.loads((copy / "model.json").read_text())
    del record["sha256"]
    (copy / "model.json").write_text(json.dumps(record))
    assert model_dir.load_model(copy).temperature == 1.5
    assert "not as it was written" not in caplog.text


def test_a_model_without_checksums_is_loaded_and_told(copy, caplog):
    record = json.loads((copy / model_dir.MODEL_FILE).read_text())
    assert record.pop("checksums")
    (copy / model_dir.MODEL_FILE).write_text(json.dumps(record))
    with caplog.at_level("INFO"):
        model_dir.load_model(copy)
    assert "has no checksums" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], r"2 class_names \(a, b\), but the model has 3 classes"),
        (["a", "b", "c", "d"], r"4 class_names .*, but the model has 3"),
        (["a", "b", "a"], "class_names holds a more than once"),
        (["a", "b", 3], "must be a list of names"),
        (["a", "b", " "], "must be a list of names"),
        ("abc", "must be a list of names"),
    ],
)
def test_class_names_that_do_not_fit(copy, model, tmp_path, names, message):
    edit(copy, class_names=names)
    with pytest.raises(UserError, match=f"model.json: .*{message}"):
        model_dir.load_model(copy)
    with pytest.raises(UserError, match=message):
        model_dir.save_model(
            tmp_path / "new",
            "resnet18",
            ARGUMENTS,
            model,
            preprocessing=PREPROCESSING,
            class_names=names,
        )
    assert not (tmp_path / "new").exists()


def test_class_names_may_be_unknown(copy):
    edit(copy, class_names=[])
    assert model_dir.load_model(copy).class_names == ()


def test_normalisation_follows_its_description():
    images = np.array([[[[255, 0, 51]]]], np.uint8)
    got = PREPROCESSING.normalise(images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[0, 0, 0], [5.0, -2.0, -1 / 3], rtol=1e-5)
