"""Pictures of exported models: what is drawn, the numbers beside it, and what is refused."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.models import saliency
from affect_jax.report import build, fine_grained, gallery, model_runner, page, pictures
from affect_jax.report import run as run_lib
from affect_jax.report.__main__ import main
from affect_jax.report.gallery import PICTURES
from affect_jax.report.pictures import write_pictures
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.sources import make
from tests.affect_jax import tiny
from tests.affect_jax.report.saved_model import save


@pytest.fixture(scope="module")
def config():
    return tiny.config(data__synthetic__num_validation=24, data__synthetic__num_test=24)


@pytest.fixture(scope="module")
def tree(config):
    classes = tuple(make.make_sources(config.data)["test"].class_names)
    return Hierarchy("thirds", classes, ("x", "y", "z"), tuple(i % 3 for i in range(len(classes))))


@pytest.fixture(scope="module")
def balanced(tmp_path_factory, config, tree):
    folder = tmp_path_factory.getbasetemp() / "balanced"
    return save(folder, config, hierarchy=tree, reliability={"anchors": 2})


@pytest.fixture(scope="module")
def plain(tmp_path_factory, config):
    return save(tmp_path_factory.getbasetemp() / "plain", config, se=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, balanced, plain):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("pictures") / "new"
    names = [*PICTURES, *fine_grained.PICTURES]
    written = write_pictures(balanced, names, compare=plain, output=folder, faces=3, points=20)
    assert {p.name for p in written} == {p.name for p in folder.iterdir()}
    assert {p.stem for p in written} == {f"{name}_beside_plain" for name in names}
    return {
        path.stem.removesuffix("_beside_plain"): json.loads(path.read_text())
        for path in written
        if path.suffix == ".json"
    }


@pytest.fixture(scope="module")
def passed(balanced):
    opened = model_runner.open_model(balanced)
    step = model_runner.predictor(opened, ("primary", "corrected"), flip=True)
    return model_runner.run_over(opened, step, "test")[0]


def test_every_picture_names_its_models_and_split(drawn, balanced, plain):
    models_of = {p.name: {"path": str(p), "checkpoint": 7} for p in (balanced, plain)}
    for record in drawn.values():
        assert record["title"] and record["caption"] and record["split"] == "test"
        assert record["models"] == models_of


def test_models_are_named_by_what_their_paths_do_not_share():
    def names(*paths):
        return pictures._names([pathlib.Path(p) for p in paths])

    assert names("/w/a/0") == ["0"]
    assert names("/w/a", "/w/b") == ["a", "b"]
    cell = "/w/cells/{}/seed0/folds/{}"
    rows = "stage 1 + ViT + SE", "stage 1 + ViT", "ViT"
    assert names(*(cell.format(row, 0) for row in rows[:2])) == list(rows[:2])
    assert names(cell.format(rows[0], 0), cell.format(rows[0], 1)) == ["0", "1"]
    # Of other rows and other folds: no two second models have one name.
    others = [cell.format(row, fold) for row in rows for fold in range(3)]
    mine, others = others[0], others[1:]
    assert len({names(mine, other)[1] for other in others}) == len(others)
    assert names("/w/run", "/w/run/model") == ["run", "run-model"]
    with pytest.raises(UserError, match="the model itself"):
        names("/w/a", "/w/b/../a")


def test_class_activation_of_the_true_class(drawn, plain):
    opened = model_runner.open_model(plain)
    shown, predicted = drawn["cam_true"]["numbers"], drawn["cam"]["numbers"]
    labels = np.array([face["label"] for face in shown["faces"]])
    _, kept = model_runner.run_over(
        opened, model_runner.predictor(opened), "test", [face["index"] for face in shown["faces"]]
    )
    images = np.stack(list(kept.values()))
    maps, logits = opened.compiled(saliency.class_activation)(images, labels)
    own = [face["map"] for face in shown["models"]["plain"]]
    np.testing.assert_allclose(own, maps, atol=1e-3)
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    assert wrong.size  # the model has learnt nothing, so that there is something to compare
    for face in wrong:
        assert own[face] != predicted["models"]["plain"][face]["map"]


def test_a_pass_gives_every_example_once(passed, balanced, config):
    source = make.make_sources(config.data)["test"]
    np.testing.assert_array_equal(passed["index"], np.arange(24))
    np.testing.assert_array_equal(passed["expression"], source.labels)
    assert passed["logits"].shape == passed["mirrored_logits"].shape == passed["primary"].shape
    stages = gallery.distributions(passed)
    assert list(stages) == ["primary", "corrected", "final"]
    for values in stages.values():
        np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)


def test_calibration_before_and_after(drawn, passed):
    rows = drawn["calibration"]["numbers"]["rows"]
    stages = {name: [row["stage"] for row in own] for name, own in rows.items()}
    assert stages["plain"] == ["final"] * 2 + ["flip-averaged"] * 2
    assert stages["balanced"] == ["primary"] * 2 + stages["plain"]
    for own in rows.values():
        for before, after in zip(own[::2], own[1::2], strict=True):
            assert before["temperature"] is None and after["temperature"] > 0
            assert before["accuracy"] == after["accuracy"]
    right = passed["primary"].argmax(axis=1) == passed["expression"]
    assert rows["balanced"][0]["accuracy"] == pytest.approx(right.mean())


def test_correction_counts_what_changes(drawn, passed):
    numbers = drawn["correction"]["numbers"]
    own = numbers["models"]["balanced"]
    before, after = passed["primary"].argmax(axis=1), passed["logits"].argmax(axis=1)
    assert own["changed"] == pytest.approx((before != after).mean())
    assert own["deviation"]["primary"] == pytest.approx(passed["primary"].std(), rel=1e-4)
    row = numbers["faces"][1]["index"]
    final = np.exp(passed["logits"][row])  # of such a model logits are log-probabilities
    np.testing.assert_allclose(own["faces"]["corrected"][1], final, rtol=1e-4)
    assert list(own["faces"]) == list(own["deviation"]) == ["primary", "corrected"]
    assert list(numbers["models"]["plain"]["faces"]) == ["final"]


def test_maps_and_confusions(drawn, passed):
    for name in ("cam", "cam_true", "attention"):
        shown = drawn[name]["numbers"]
        assert len(shown["faces"]) == 3 and set(shown["models"]) == {"balanced", "plain"}
        for face, own in zip(shown["faces"], shown["models"]["balanced"], strict=True):
            values = np.array(own["map"])
            assert values.shape == (2, 2)  # 32 pixels in patches of 16
            assert values.min() >= 0 and values.max() in (0, 1)
            probabilities = gallery.distributions(passed)["final"][face["index"]]
            assert own["probability"] == pytest.approx(probabilities.max(), rel=1e-3)
    assert np.sum(drawn["confusion"]["numbers"]["counts"]["balanced"]) == 24
    places = drawn["embedding"]["numbers"]["models"]["plain"]["shown"]["place"]
    assert np.shape(places) == (20, 2)


def test_pictures_of_coarse_classes_agree(drawn, passed, tree):
    errors = drawn["coarse_errors"]["numbers"]["models"]["balanced"]["errors"]
    wrong = passed["logits"].argmax(axis=1) != passed["expression"]
    assert np.sum(errors) == wrong.sum()
    distances = drawn["coarse_embedding"]["numbers"]["models"]["plain"]["embedding"]
    assert distances["ratio"] == pytest.approx(distances["within"] / distances["between"], rel=1e-5)
    table = drawn["class_table"]["numbers"]
    assert table["columns"] == ["balanced", "plain"] and table["published"] == 0
    assert table["overall_accuracy"][0] == pytest.approx(1 - wrong.mean())
    cases = drawn["cases"]["numbers"]
    kinds = sum(cases[kind]["images"] for kind in ("first", "second", "neither"))
    assert kinds + cases["both_right"] == 24


def test_a_group_of_pictures_is_all_that_can_be_drawn():
    names = pictures._expanded(["cases", "rald", "confusion"])
    assert names[0] == "cases" and names[-1] == "confusion"
    assert sorted(names[:-1]) == sorted(pictures.GROUPS["rald"])


def test_what_cannot_be_drawn_is_refused_before_anything_is_written(plain, tmp_path):
    output = tmp_path / "out"
    for names, changes, message in (
        (["confusion", "correction"], {}, "no reliability balancing"),
        (["camm"], {}, "did you mean 'cam'"),
        (["calibration"], {"split": "validation"}, "fitted on the validation split"),
        (["cam"], {"split": "tset"}, "did you mean 'test'"),
        (["cam"], {"indices": [24]}, "has 0 to 23"),
        (["cam"], {"output": None}, "--output"),
        ([], {}, "--pictures names none"),
        (["confusion"], {}, "--faces has no effect on confusion"),
        (["confusion"], {"faces": None, "indices": [1]}, "--indices has no effect on confusion"),
        (["cam"], {"points": 9}, "--points has no effect on cam"),
        (["cases", "coarse_errors"], {}, r"cases \(no second model, --compare\); coarse_errors"),
        (["cam"], {"checkpoint": "latest"}, "--checkpoint has no effect on a model directory"),
    ):
        with pytest.raises(UserError, match=message):
            write_pictures(plain, names, **{"output": output, "faces": 2, **changes})
        assert not output.exists()


def test_networks_without_attention_are_told_of_class_activation(config, tmp_path):
    save(tmp_path / "resnet", config, "resnet18", width=4)
    with pytest.raises(UserError, match="ResNet is not a vision transformer"):
        write_pictures(tmp_path / "resnet", ["attention"], output=tmp_path / "out", faces=1)


def test_models_of_other_data_are_not_set_side_by_side(balanced, config, tmp_path):
    other = tiny.config(data__synthetic__num_validation=24, data__synthetic__num_test=16)
    save(tmp_path / "other", other)
    with pytest.raises(UserError, match="only models of the same data"):
        write_pictures(balanced, ["confusion"], compare=tmp_path / "other", output=tmp_path / "o")


def test_a_converted_model_has_no_data(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "converted")
    path = tmp_path / "converted" / "model.json"
    record = json.loads(path.read_text())
    del record["provenance"]["workdir_config"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="not exported from a run"):
        model_runner.open_model(tmp_path / "converted")
    with pytest.raises(UserError, match="neither"):
        model_runner.open_model(tmp_path)


def test_command(plain, tmp_path, capsys):
    output = tmp_path / "out"
    flags = ["--workdir", str(plain), "--pictures", "cam", "--output", str(output)]
    assert main([*flags, "--indices", "3,5", "--split", "validation"]) == 0
    record = json.loads((output / "cam_validation.json").read_text())
    assert [face["index"] for face in record["numbers"]["faces"]] == [3, 5]
    assert main([*flags, "--indices", "three"]) == 2
    assert "whole numbers" in capsys.readouterr().err


def test_the_page_shows_pictures_of_the_tested_checkpoint_alone(tmp_path):
    folder = tmp_path / build.PICTURES_FOLDER
    folder.mkdir(parents=True)
    for name, checkpoint, split in (("a", 40, "test"), ("b", 30, "test"), ("c", 40, "train")):
        models_of = {"m": {"checkpoint": checkpoint}}
        record = {"title": "T", "caption": "C", "split": split, "models": models_of}
        (folder / f"{name}.json").write_text(json.dumps(record))
        (folder / f"{name}.png").write_bytes(b"content")
    run = run_lib.Run([], {}, {"checkpoint": 40}, {}, {}, {})
    expected = page.Picture("a", "T", "T", "C", b"content")
    assert build._further_pictures(tmp_path, run) == [expected]
