"""What a card says of a model itself."""

import numpy as np
import pytest

from affect_jax import models
from affect_jax.evaluation.contexts import BANK_LABELS
from affect_jax.exporting import architecture
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights import model_dir
from affect_jax.weights.model_dir import LoadedModel
from data_pipelines.hierarchies.tree import Hierarchy

CLASSES = ("happy", "sad", "<b>")
RELATIONS = {"bank_size": 5, "heads": 2, "head_features": 4, "label_features": 6}
TREE = Hierarchy("mine", CLASSES, ("x", "y"), (1, 0, 0), ("bad", "good"), (0, 1))


def loaded(name="resnet18", preprocessing=None, hierarchy=None, provenance=(), bank=(), **extra):
    given = {"width": 4, "n_expression": 3, **extra}
    arguments = {k: v for k, v in given.items() if v is not None}
    model = models.create(name, **arguments)
    if bank:
        labels = np.array(bank, np.int32)
        model_dir.assign(model, {"params": {}, "stats": {BANK_LABELS: labels}})
    model.eval()
    known = (CLASSES, {"trained_for": ["expression"], **dict(provenance)}, hierarchy)
    return LoadedModel(model, name, arguments, preprocessing or Preprocessing(32), *known)


@pytest.fixture(scope="module")
def plain():
    return loaded(hierarchy=TREE)


def test_classes_have_their_ids_and_their_tree(plain):
    text = architecture.section(plain, "classifier")
    assert "* Architecture: `resnet18`; system `classifier`\n" in text
    assert "ids: 0 happy, 1 sad, 2 &lt;b>\n" in text
    assert "* Output: probabilities of 3 classes\n" in text
    assert "* Coarse classes: x (sad, &lt;b>); y (happy)\n" in text
    assert text.endswith("* Poles: bad (x); good (y)")
    assert "Compared with" not in text


def test_parameters_are_counted(plain):
    count = sum(value.size for value in model_dir.arrays_of(plain.model)["params"].values())
    assert f"* Parameters: {count:,}\n" in architecture.section(plain)


@pytest.mark.parametrize(
    ("preprocessing", "crop"),
    [
        (
            {"fit": "cover"},
            "the whole image, cut to the largest square in the middle; of a detected face: a "
            "square 1.3 times as large as its box, which is a guess\n",
        ),
        (
            {"crop_scale": 1.25, "margin": 0.1},
            "a square around the landmarks or, without them, the box without its forehead of the "
            "face, 1.25 times as large; of an image without: the whole image, stretched to a "
            "square; of this, the middle 1/1.1 of each side",
        ),
        ({"crop_scale": 1.25, "crop": "whole", "fit": "contain"}, "the whole image, on a black"),
    ],
)
def test_the_crop_is_told(plain, preprocessing, crop):
    seen = Preprocessing(48, (0.5, 0.25, 0), (0.2, 0.2, 0.2), **preprocessing)
    text = architecture.section(LoadedModel(plain.model, "resnet18", {}, seen, (), {}))
    assert f"* Crop: {crop}" in text
    assert "48 x 48 pixels, as (RGB / 255 - mean) / deviation, with mean (0.5, 0.25, 0)" in text


def test_a_bank_is_counted_by_class():
    provenance = {"label_vectors": {"kind": "file", "summary": "words.bin", "filled": ["sad"]}}
    model = loaded(relations=RELATIONS, bank=(0, 2, 0, -1, 2), provenance=provenance)
    text = architecture.section(model)
    assert "* Architecture: `resnet18`, with relations\n" in text
    assert "a bank of 4 training images (happy 2, &lt;b> 2)" in text
    assert "* Label vectors: words.bin. Stand-in vectors, which hold no meaning" in text
    assert "of words, have: sad\n" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no other image; the bank is empty"),
        ({"context": "self"}, "no other image"),
        ({"context": "batch"}, "the other images of the same call"),
    ],
)
def test_what_images_are_compared_with(settings, said):
    parts = {"hlrr": False, "lgifo": False, "nnldl": False}
    text = architecture.section(loaded(relations={**RELATIONS, **parts, **settings}))
    assert f"* Compared with: {said}" in text


def test_stand_in_vectors_of_all_classes_are_said_once(plain):
    known = {"kind": "stand_in", "summary": "stand-in, no word vectors", "filled": list(CLASSES)}
    about = {"trained_for": ["expression"], "label_vectors": known}
    model = LoadedModel(plain.model, "resnet18", {}, plain.preprocessing, CLASSES, about)
    text = architecture.section(model)
    assert "stand-in, no word vectors. Stand-in vectors" in text and "have: all classes" in text


def test_a_head_on_features_needs_their_network():
    text = architecture.section(loaded("features", n_features=7, width=None))
    assert "* Input: 7 stored features, of the network that training used\n" in text
    assert "Crop" not in text
