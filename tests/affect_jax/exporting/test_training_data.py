"""What a card says of training data."""

import json

import numpy as np
import pytest

from affect_jax import config as config_lib
from affect_jax import data_record
from affect_jax.exporting import training_data
from affect_jax.exporting.training_data import NOT_RECORDED, Origin, Split
from data_pipelines.sources import fingerprint
from data_pipelines.sources.synthetic import SyntheticFaces
from tests.affect_jax import tiny
from tests.data_pipelines import made_features

SYNTHETIC = "synthetic faces, drawn by this package"
NOISE = {"symmetric_noise": 0.1, "confusable_noise": 0.2}


def plain(**changes):
    return config_lib.to_plain(tiny.one_block(**changes))


def of_photos(**changes):
    return plain(data__source="manifest", data__manifest="/home/me/faces.csv", **changes)


def test_what_weights_and_teachers_learnt_from_is_followed(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    config_lib.claim_workdir(first, tiny.one_block())
    (tmp_path / "teacher").mkdir()
    record = {"format": 1, "name": "x", "arguments": {}, "preprocessing": {}}
    record["provenance"] = {"workdir_config": of_photos(init_from=str(first))}
    (tmp_path / "teacher/model.json").write_text(json.dumps(record))
    config = of_photos(
        init_from=f"{first}, {tmp_path / 'gone.pth'}", loss__teacher=str(tmp_path / "teacher")
    )
    photos = "images of the manifest `faces.csv`"
    assert training_data.origins(config) == [
        Origin("Training images", photos, None),
        Origin("First weights, `first`: training images", SYNTHETIC, True),
        Origin("First weights, `gone.pth`", "their training data are not recorded here", None),
        Origin("Teacher, `teacher`: training images", photos, None),
        Origin("Teacher, `teacher`: first weights, `first`: training images", SYNTHETIC, True),
    ]


def test_a_model_that_began_with_itself_is_followed_once(tmp_path):
    config = tiny.one_block(init_from=str(tmp_path))
    config_lib.claim_workdir(tmp_path, config)
    name = f"First weights, `{tmp_path.name}`"
    assert [origin.role for origin in training_data.origins(config_lib.to_plain(config))] == [
        "Training images",
        f"{name}: training images",
        f"{name}: first weights, `{tmp_path.name}`",
    ]


def test_a_damaged_model_is_not_recorded(tmp_path):
    (tmp_path / "model.json").write_text("{")
    found = training_data.origins(plain(init_from=str(tmp_path)))
    assert found[1].text == "their training data are not recorded here"


def test_landmarks_that_were_learnt_from_synthetic_faces():
    config = of_photos(landmark_stage__data="synthetic")
    assert len(training_data.origins(config)) == 1
    config["landmark_stage"]["steps"] = 5
    assert training_data.origins(config)[1] == Origin("Landmarks, learnt first", SYNTHETIC, True)


def features(tmp_path, **made_from):
    path = tmp_path / "stored.npz"
    made_features.save(path, made_features.arrays(made_from=made_from))
    return {"source": "features", "features": str(path)}


def test_features_are_followed_to_their_images(tmp_path):
    data = features(tmp_path, data={"source": "synthetic"})
    (origin,) = training_data.origins({"data": data})
    assert origin.text == f"the stored features `stored.npz`, made from {SYNTHETIC}"
    assert origin.synthetic and training_data.labellers(data).startswith("no person")
    unknown = features(tmp_path)
    moved = {**data, "features": str(tmp_path / "moved.npz")}
    for other in (unknown, moved):
        (origin,) = training_data.origins({"data": other})
        assert origin.text.endswith(f"the images behind them are {NOT_RECORDED}")
        assert origin.synthetic is None and training_data.labellers(other) == NOT_RECORDED


@pytest.mark.parametrize(
    ("data", "who"),
    [
        ({"source": "tfds", "dataset": "raf_db/aligned"}, "315 annotators, about 40 per image"),
        ({"source": "tfds", "dataset": "sewa"}, NOT_RECORDED),
        ({"source": "tfds", "dataset": "mine"}, NOT_RECORDED),
        ({"source": "folder", "folder": "faces"}, NOT_RECORDED),
    ],
)
def test_who_labelled_is_said_by_the_data_set(data, who):
    assert training_data.labellers(data) == who


@pytest.mark.parametrize(
    ("data", "fraction"),
    [
        ({"source": "synthetic", "synthetic": NOISE}, 0.3),
        ({"source": "features", "features_noise": 0.25}, 0.25),
        ({"source": "folder", "synthetic": NOISE}, 0.0),
    ],
)
def test_wrong_labels_on_purpose_are_counted(data, fraction):
    assert training_data.wrong_labels(data) == pytest.approx(fraction)


def test_numbers_of_a_run(tmp_path):
    sources = {
        split: SyntheticFaces(size, split=split, image_size=32)
        for split, size in (("train", 24), ("validation", 0), ("test", 8))
    }
    data_record.write(tmp_path, fingerprint.of_sources(sources))
    found = training_data.splits(tmp_path)
    assert [found[split].images for split in sources] == [24, 0, 8]
    counts = np.bincount(sources["train"].labels, minlength=8).tolist()
    assert list(found["train"].per_class.values()) == counts
    assert found["train"].persons == set(sources["train"].persons)
    assert found["validation"].persons == frozenset() and found["validation"].nameless == 0
    assert training_data.disjoint(found) == "none is in two splits"
    next(tmp_path.glob("data.*.npz")).unlink()
    assert training_data.disjoint(training_data.splits(tmp_path)).endswith(NOT_RECORDED)
    assert training_data.splits(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("persons", "nameless", "said"),
    [
        (["ab", "c"], 0, "none is in two splits"),
        (["ab", "c"], 3, "as far as they are named; 3 images name none"),
        (["ab", "bc"], 0, "**not disjoint**: 1 are in more than one split"),
        (["", ""], 9, "the data name none"),
        (["ab", None], 0, f"whether a person is in two splits is {NOT_RECORDED}"),
    ],
)
def test_whether_persons_are_disjoint(persons, nameless, said):
    names = [None if p is None else frozenset(p) for p in persons]
    splits = [Split(9, {}, names[0], nameless), Split(9, {}, names[1], 0)]
    assert said in training_data.disjoint(dict(zip(("train", "test"), splits, strict=True)))
