"""Predictions of a model that relates images: what they depend on."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import affect_jax
from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights import model_dir

NAMES = ("calm", "glad", "cross")
ARGUMENTS = {"depth": 1, "image_size": 16, "n_expression": 3}
# Images relate to each other alone, so that what is compared changes every logit.
RELATIONS = {"hlrr": False, "lgifo": False, "heads": 2, "head_features": 4, "bank_size": 6}
COLUMNS = [f"p_{name}" for name in NAMES]


def save(folder, relations=None, filled=True):
    arguments = ARGUMENTS | ({} if relations is None else {"relations": relations})
    model = models.create("vit_ti16", **arguments)
    if relations is not None and relations.get("itrr", True):
        part = model.relations
        if filled:
            features = np.random.default_rng(5).normal(size=(5, 192))  # one place is empty
            part.bank_features[...] = part.bank_features[...].at[:5].set(jnp.asarray(features))
            part.bank_labels[...] = part.bank_labels[...].at[:5].set(0)
    model_dir.save_model(
        folder,
        "vit_ti16",
        arguments,
        model,
        preprocessing=Preprocessing(16, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)),
        class_names=NAMES,
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "related", RELATIONS)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("context", ["self", "bank"])
def test_a_prediction_does_not_depend_on_the_other_images(context, model, images):
    """Alone, in any order and in batches of any size. The programs differ, and so the last digits:
    at most 1e-6 of logits up to 0.8, and 2e-7 of probabilities, in float32 on a CPU."""
    predictor = affect_jax.load(model, context=context, batch_size=4)
    logits = predictor.outputs(images)["logits"]
    alone = np.concatenate([predictor.outputs(image[None])["logits"] for image in images])
    order = np.array([4, 0, 6, 2, 1, 5, 3])
    shuffled = predictor.outputs(images[order])["logits"]
    for other in (alone[order], shuffled, predictor.outputs(images[order[:4]])["logits"]):
        np.testing.assert_allclose(other, logits[order[: len(other)]], rtol=0, atol=2e-6)
    table = predictor.predict(images)  # four images, and three with padding
    single = np.concatenate([predictor.predict(image)[COLUMNS] for image in images])
    expected = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(table[COLUMNS], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


def test_context_batch_compares_the_images_of_the_request(model, images):
    predictor = affect_jax.load(model, context="batch", batch_size=4)
    weights = predictor.outputs(images[:3])["relation_weights"]
    assert weights.shape == (3, 3)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    # The request is cut into batches of four; the last one is padded, and padding is not compared.
    table = predictor.predict(images)[COLUMNS]
    parts = [predictor.outputs(images[:4])["logits"], predictor.outputs(images[4:])["logits"]]
    expected = np.asarray(jax.nn.softmax(np.concatenate(parts)))
    np.testing.assert_allclose(table, expected, rtol=0, atol=1e-6)
    # An unreadable image is in no batch.
    mixed = predictor.predict([images[0], b"no image", *images[1:]])[COLUMNS]
    np.testing.assert_allclose(mixed.drop(1), expected, rtol=0, atol=1e-6)
    # Two images alone are padded to a batch of four.
    pair = np.asarray(jax.nn.softmax(predictor.outputs(images[:2])["logits"]))
    np.testing.assert_allclose(predictor.predict(images[:2])[COLUMNS], pair, rtol=0, atol=1e-6)
    assert np.abs(pair - expected[:2]).max() > 1e-3


def test_contexts_differ_and_the_settings_choose_one(model, images, tmp_path):
    outputs = {
        context: affect_jax.load(model, context=context).outputs(images)["logits"]
        for context in (None, "bank", "self", "batch")
    }
    np.testing.assert_array_equal(outputs[None], outputs["bank"])
    for one, other in (("bank", "self"), ("bank", "batch"), ("self", "batch")):
        assert np.abs(outputs[one] - outputs[other]).max() > 1e-3
    alone = affect_jax.load(save(tmp_path / "self", {**RELATIONS, "context": "self"}))
    np.testing.assert_array_equal(alone.outputs(images)["logits"], outputs["self"])
    folder = save(tmp_path / "empty", RELATIONS, filled=False)
    with pytest.raises(UserError, match="has no bank"):
        affect_jax.load(folder, context="bank")
    empty = affect_jax.load(folder)
    np.testing.assert_allclose(empty.outputs(images)["logits"], outputs["self"], rtol=0, atol=1e-6)


def test_a_context_stays_with_a_pickled_predictor(model, images):
    predictor = affect_jax.load(model, context="self", dtype="float32")
    again = pickle.loads(pickle.dumps(predictor))
    assert again.loaded.arguments["relations"]["context"] == "self"
    np.testing.assert_array_equal(
        again.outputs(images)["logits"], predictor.outputs(images)["logits"]
    )


def test_contexts_that_are_none(model, tmp_path):
    with pytest.raises(UserError, match=r"model\.json.*context = 'banks'; did you mean 'bank'"):
        affect_jax.load(model, context="banks")
    for number, relations in enumerate((None, {"itrr": False, "nnldl": False})):
        plain = save(tmp_path / f"{number}", relations)
        assert affect_jax.load(plain).loaded.class_names == NAMES
        with pytest.raises(UserError, match="context = 'self', but the model does not relate"):
            affect_jax.load(plain, context="self")
