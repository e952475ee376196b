"""Models written in several formats: checked, recorded, complete or absent."""

import hashlib
import json
import os
import sys
import types

import numpy as np
import pytest

import affect_jax
from affect_jax import export
from affect_jax.errors import UserError
from affect_jax.exporting import formats, model_card, onnx, orbax, savedmodel, stablehlo
from affect_jax.exporting.program import Program
from affect_jax.runtime import xla_flags
from affect_jax.weights import model_dir
from tests.affect_jax import tiny_models

MODULES = {"stablehlo": stablehlo, "onnx": onnx}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A converted model, with a card and a text of the user's."""
    provenance = {
        "architecture": "mine", "source": "mine.npz", "source_sha256": "0" * 64, "licence": "mine",
        "preprocessing_certain": True, "preprocessing_from": "given", "classes_from": "given",
    }  # fmt: skip
    loaded = tiny_models.make(*tiny_models.SYSTEMS["features"], provenance)
    folder = tiny_models.save(loaded, tmp_path_factory.mktemp("source") / "mine")
    (folder / "NOTES.txt").write_text("of mine")
    return folder


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "new"
    command = ["--model", str(source), "--output", str(folder), "--formats", "onnx,stablehlo"]
    assert export.main(command) == 0
    return folder


@pytest.fixture
def record(exported):
    return json.loads((exported / formats.FORMATS_FILE).read_text())


def test_the_record_describes_the_program_and_its_files(exported, record):
    assert record["input"] == {"name": "features", "dtype": "float32", "shape": ["batch", 12]}
    assert record["outputs"]["logits"] == {"dtype": "float32", "shape": ["batch", 3]}
    assert record["outputs"]["valence"] == {"dtype": "float32", "shape": ["batch"]}
    assert list(record["formats"]) == ["orbax", "stablehlo", "onnx"]
    assert record["checked_with_batches_of"] == [3, 1] and not record["depends_on_the_batch"]
    for name, one in record["formats"].items():
        assert {path.partition("/")[0] for path in one["sha256"]} == {one["path"]}
        for path, digest in one["sha256"].items():
            assert hashlib.sha256((exported / path).read_bytes()).hexdigest() == digest
        assert one["versions"]["jax"] and set(one["versions"]) >= set(
            formats.FORMATS[name].PACKAGES
        )
        assert one["largest_difference"] == max(one["differences"].values()) <= 1e-5
    assert record["formats"]["orbax"]["largest_difference"] == 0


def test_the_folder_loads_as_before_and_its_files_agree(source, exported):
    batch = tiny_models.batch("features", 5)
    wanted = affect_jax.load(source).outputs(batch)
    found = affect_jax.load(exported).outputs(batch)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    for module in MODULES.values():
        outputs = module.read(exported / module.FILE)(batch)
        assert outputs.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(outputs[name], value, rtol=0, atol=1e-5)


def test_card_and_texts_are_kept_and_the_card_names_the_formats(exported, tmp_path):
    assert (exported / "NOTES.txt").read_text() == "of mine"
    card = (exported / model_card.CARD_FILE).read_text()
    assert card.startswith("# Model card: new\n") and "mine.npz" in card
    assert card.count("\n## Formats\n") == 1
    assert "| orbax | `params` | 0 |" in card and "| onnx | `model.onnx` | " in card
    assert export.main(["--model", str(exported), "--output", str(tmp_path / "again")]) == 0
    card = (tmp_path / "again" / model_card.CARD_FILE).read_text()
    assert card.count("\n## Formats\n") == 1 and "onnx" not in card
    # Files of the formats are not texts: only what is asked for is in the new folder.
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == {"params", "model.json", "formats.json", "MODEL_CARD.md", "NOTES.txt"}


def test_a_model_can_take_its_own_place(source, tmp_path):
    folder = tiny_models.save(model_dir.load_model(source), tmp_path / "mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("of mine")
    card = folder / model_card.CARD_FILE
    card.write_text("# Mine\n\n## Formats\n\nold\n\n## Use\n\nwith care\n")
    assert export.main(["--model", str(folder), "--output", str(folder), "--formats=onnx"]) == 0
    assert (folder / "notes" / "a.txt").read_text() == "of mine"
    text = card.read_text()
    assert text.startswith("# Mine\n\n## Formats\n\n| format |") and "old" not in text
    assert text.endswith("\n\n## Use\n\nwith care\n")
    assert (folder / onnx.FILE).is_file() and affect_jax.load(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_format_that_differs_leaves_nothing(source, tmp_path, monkeypatch, capsys):
    write = onnx.write

    def wrong(program, path):
        model = program.loaded.model
        kept = model.head.bias[...]
        model.head.bias[...] = kept + 0.01
        write(program, path)
        model.head.bias[...] = kept

    monkeypatch.setattr(onnx, "write", wrong)
    (tmp_path / "kept").mkdir()
    for folder in (
        tmp_path / "new",
        tiny_models.save(model_dir.load_model(source), tmp_path / "old"),
    ):
        before = sorted(folder.rglob("*")) if folder.exists() else None
        command = ["--model", str(source), "--output", str(folder), "--formats=stablehlo,onnx"]
        assert export.main(command) == 2
        error = capsys.readouterr().err
        assert "the format onnx: its " in error and "differ from the live model's by 0.01" in error
        assert (sorted(folder.rglob("*")) if folder.exists() else None) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "old"]


def test_a_format_that_fails_is_named(source, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise NotImplementedError("the primitive sort\nand more")

    monkeypatch.setattr(onnx, "write", fail)
    command = ["--model", str(source), "--output", str(tmp_path / "new"), "--formats=onnx"]
    assert export.main(command) == 2
    error = capsys.readouterr().err
    assert (
        "the format onnx cannot be written for this model (NotImplementedError: the primitive"
        in error
    )
    assert "Leave it out of --formats" in error and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--formats=onx"], "--formats names 'onx'; did you mean 'onnx'?"),
        (["--formats=onnx", "--outputs=logit"], "has no output 'logit'; did you mean 'logits'?"),
        (["--formats=onnx", "--landmarks"], "no heatmaps, so it has no landmarks"),
        (["--outputs=logits"], "orbax holds none; add --formats=stablehlo, onnx or savedmodel"),
        (["--licence=MIT"], "--licence belong to --workdir"),
        (["--checkpoint=latest"], "--checkpoint belong to --workdir"),
    ],
)
def test_wrong_options_are_explained(source, tmp_path, options, message, capsys):
    assert export.main(["--model", str(source), "--output", str(tmp_path / "new"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_output_alone(source, tmp_path):
    command = ["--model", str(source), "--output", str(tmp_path / "new"), "--formats=onnx"]
    assert export.main([*command, "--outputs=logits, valence"]) == 0
    found = onnx.read(tmp_path / "new" / onnx.FILE)(tiny_models.batch("features", 2))
    assert found.keys() == {"logits", "valence"}


def test_differences():
    one, inf, nan = np.float32([1, 2, 3]), np.float32([1, np.inf, 3]), np.float32([1, np.nan, 3])
    assert formats._difference(one, one) == formats._difference(nan, nan) == 0
    assert formats._difference(inf, inf) == 0
    assert formats._difference(one, one + np.float32(0.5)) == 0.5
    assert formats._difference(one, nan) == formats._difference(inf, one) == np.inf
    with pytest.raises(UserError, match=r"float64 .* instead of float32"):
        formats._difference(one, one.astype(np.float64))


def test_arrays_that_are_not_the_models_are_found(tmp_path):
    loaded = tiny_models.loaded("features")
    other = tiny_models.make("features", {"n_features": 12, "n_expression": 3})
    orbax.write(Program.of(other), tmp_path / "params")
    with pytest.raises(UserError, match="the format orbax: "):
        formats.write(Program.of(loaded), tmp_path, ["orbax"])


def test_without_tensorflow_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[savedmodel\]"'):
        savedmodel.write(Program.of(tiny_models.loaded("features")), tmp_path / "savedmodel")


def test_tensorflow_does_not_see_the_flags_of_our_xla(monkeypatch, tmp_path):
    seen = []

    def signature(x):
        seen.append(os.environ["XLA_FLAGS"])
        return {}

    def load(path):
        seen.append(os.environ["XLA_FLAGS"])
        signature.structured_input_signature = ((), {"x": None})
        return types.SimpleNamespace(signatures={savedmodel.SIGNATURE: signature})

    tensorflow = types.SimpleNamespace(
        saved_model=types.SimpleNamespace(load=load), constant=lambda x: x
    )
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setenv("XLA_FLAGS", f"--a=1 {xla_flags._PREDICTION}")
    assert savedmodel.read(tmp_path)(np.zeros(1)) == {}
    assert seen == ["--a=1", "--a=1"]
    assert os.environ["XLA_FLAGS"] == f"--a=1 {xla_flags._PREDICTION}"


@pytest.mark.slow
def test_tensorflow_serves_a_savedmodel(tmp_path):
    tf = pytest.importorskip("tensorflow")
    program = Program.of(tiny_models.loaded("vit_se"))
    savedmodel.write(program, tmp_path / "savedmodel")
    assert (tmp_path / "savedmodel" / "1" / "saved_model.pb").is_file()
    serve = tf.saved_model.load(str(tmp_path / "savedmodel" / "1")).signatures["serving_default"]
    for size in (1, 3):
        batch = tiny_models.batch("vit_se", size)
        wanted, found = program.live(batch), serve(images=tf.constant(batch))
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4)
