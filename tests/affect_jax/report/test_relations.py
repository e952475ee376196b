"""Pictures of relations: nearest images of a bank and of a batch, and attention of labels."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.models.relations import Comparison
from affect_jax.report import model_runner
from affect_jax.report import relations as relations_lib
from affect_jax.report.pictures import write_pictures
from affect_jax.report.views import Choices, View
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.sources import make
from tests.affect_jax import tiny
from tests.affect_jax.report.saved_model import save

BANK = 9


@pytest.fixture(scope="module")
def config():
    return tiny.config(data__synthetic__num_validation=24, data__synthetic__num_test=24)


@pytest.fixture(scope="module")
def tree(config):
    classes = tuple(make.make_sources(config.data)["test"].class_names)
    coarse_of = tuple(i % 3 for i in range(len(classes)))
    return Hierarchy("thirds", classes, ("x", "y", "z"), coarse_of)


@pytest.fixture(scope="module")
def relations(tree):
    return {
        "hierarchy_bias": True,
        "hierarchy": tree.to_plain(),
        "heads": 2,
        "head_features": 8,
        "label_features": 16,
        "bank_size": BANK,
    }


@pytest.fixture(scope="module")
def empty(tmp_path_factory, config, tree, relations):
    folder = tmp_path_factory.getbasetemp() / "empty"
    return save(folder, config, hierarchy=tree, relations=relations)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, config, tree, relations):
    """A model with a bank: 8 training images and an empty place."""
    source = make.make_sources(config.data)["train"]

    def fill(model):
        index = np.array([*range(30, 38), -1])
        labels = np.append(np.asarray(source.labels)[index[:-1]], -1)
        features = np.random.default_rng(0).normal(size=(BANK, 192))
        model.relations.bank_features[...] = jnp.asarray(features, jnp.float32)
        model.relations.bank_index[...] = jnp.asarray(index, jnp.int32)
        model.relations.bank_labels[...] = jnp.asarray(labels, jnp.int32)

    folder = tmp_path_factory.getbasetemp() / "filled"
    return save(folder, config, hierarchy=tree, relations=relations, change=fill)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, filled):
    folder = tmp_path_factory.mktemp("drawn")
    write_pictures(filled, ["neighbours", "label_relations"], output=folder, faces=3)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def softmax(logits):
    return np.asarray(jax.nn.softmax(jnp.asarray(logits)))


def outputs(folder, split, indices, context):
    """Logits and weights of some images, from the model itself."""
    opened = model_runner.open_model(folder)
    images = model_runner.images_of(opened, split, indices)
    assert list(images) == list(indices)

    def run(model, images):
        return model(images, comparison=Comparison(context=context))

    found = opened.compiled(run)(np.stack(list(images.values())))
    return found["logits"], found["relation_weights"]


def test_neighbours_of_the_bank(drawn, filled, config):
    numbers = drawn["neighbours"]["numbers"]
    assert (numbers["context"], numbers["images"]) == ("bank", 8)
    shown = [face["index"] for face in numbers["faces"]]
    logits, weights = outputs(filled, "test", shown, "bank")
    assert weights.shape == (3, BANK + 1)
    bank = range(30, 38)
    bank_probabilities = softmax(outputs(filled, "train", bank, "bank")[0])
    source = make.make_sources(config.data)["train"]
    for face, own_logits, row in zip(numbers["faces"], logits, weights, strict=True):
        order = np.argsort(-row[:8])[:5]
        nearest = face["neighbours"]
        assert [n["index"] for n in nearest] == [bank[i] for i in order]
        np.testing.assert_allclose([n["weight"] for n in nearest], row[order], rtol=1e-4)
        assert [n["label"] for n in nearest] == [source.labels[n["index"]] for n in nearest]
        guesses = bank_probabilities[order].argmax(axis=1)
        assert [n["predicted"] for n in nearest] == guesses.tolist()
        mixed = row[order] @ bank_probabilities[order] / row[order].sum()
        np.testing.assert_allclose(face["distribution"], mixed, rtol=1e-4)
        np.testing.assert_allclose(face["prediction"], softmax(own_logits), rtol=1e-4)


@pytest.mark.parametrize(("name", "context"), [("empty", None), ("filled", "batch")])
def test_neighbours_of_a_batch(name, context, request, tmp_path):
    folder = request.getfixturevalue(name)
    write_pictures(folder, ["neighbours"], output=tmp_path, faces=1, context=context)
    numbers = json.loads((tmp_path / "neighbours.json").read_text())["numbers"]
    # The face and as many images as the bank can hold.
    assert (numbers["context"], numbers["images"]) == ("batch", 1 + BANK)
    (face,) = numbers["faces"]
    indices = [n["index"] for n in face["neighbours"]]
    assert face["index"] not in indices and len(set(indices)) == 5
    weights = [n["weight"] for n in face["neighbours"]]
    assert weights == sorted(weights, reverse=True)
    assert sum(face["distribution"]) == pytest.approx(1)


def test_contexts_that_cannot_be(empty, tmp_path):
    for context, message in (("bank", "empty bank; use --context batch"), ("bnak", "'bank'")):
        with pytest.raises(UserError, match=message):
            write_pictures(empty, ["neighbours"], output=tmp_path / "o", context=context)
    with pytest.raises(UserError, match="--context has no effect on label_relations"):
        write_pictures(empty, ["label_relations"], output=tmp_path / "o", context="batch")
    assert not (tmp_path / "o").exists()


def test_a_bank_of_other_images_is_refused(filled):
    opened = model_runner.open_model(filled)
    view = View("m", opened, {}, {}, {})
    for position, label in ((5000, 0), (30, 1 + int(opened.relations.bank_labels[...][0]))):
        opened.relations.bank_index[...] = jnp.full(BANK, position, jnp.int32)
        opened.relations.bank_labels[...] = jnp.full(BANK, label, jnp.int32)
        with pytest.raises(UserError, match="not of the training split"):
            relations_lib.PICTURES["neighbours"].draw([view], Choices("test", (), 9))


def test_attention_between_labels(drawn, filled, tree):
    numbers = drawn["label_relations"]["numbers"]["models"]["filled"]
    model = model_runner.open_model(filled).relations
    weights = np.asarray(model.labels.weights(model.label_vectors[...])).mean(axis=0)
    np.testing.assert_allclose(numbers["weights"], weights, atol=1e-5)
    assert numbers["labels"] == [*tree.fine, "x (coarse)", "y (coarse)", "z (coarse)"]
    # Of a fresh model: 0, and twice softplus(0) less.
    steps = [0, -np.log(2), -2 * np.log(2)]
    assert list(numbers["biases"].values()) == pytest.approx(steps, abs=1e-6)
    assert "+0.000, parent and child -0.693" in drawn["label_relations"]["caption"]
    shares = numbers["attention"]
    assert sum(own["share"] for own in shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares["itself"]["share"] == pytest.approx(np.diag(weights)[: len(tree.fine)].mean())


def test_a_model_without_these_parts_gets_the_other_pictures(config, tmp_path, caplog):
    save(tmp_path / "m", config, relations={"hlrr": False, "bank_size": 4})
    names = ["label_relations", "class_table"]
    with caplog.at_level(logging.INFO, "affect_jax"):
        written = write_pictures(tmp_path / "m", names, output=tmp_path / "o")
    assert [path.name for path in written] == [f"class_table.{e}" for e in ("png", "json", "md")]
    left = [line for line in caplog.messages if "left out" in line]
    assert left == [
        "pictures left out: label_relations (no model with attention between labels, "
        "config.model.relations.hlrr)"
    ]
    with pytest.raises(UserError, match="nothing can be drawn: label_relations"):
        write_pictures(tmp_path / "m", ["label_relations"], output=tmp_path / "p")
