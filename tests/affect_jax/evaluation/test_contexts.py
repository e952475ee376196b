"""A split in every context from one pass over its images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax.evaluation import context_rows, contexts
from affect_jax.evaluation.evaluator import Evaluator
from affect_jax.metrics.classification import log_softmax
from affect_jax.models.relations import Comparison
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from tests.affect_jax import related

COUNT = 21  # not a multiple of any batch
IMAGES = related.make_images(COUNT)
LABELS = np.random.default_rng(1).integers(0, 4, COUNT).astype(np.int32)
LABELS[3] = -1


def fill(model, count=5):
    """Put `count` images into the bank of a model."""
    relations = model.relations
    features = model.embed(jnp.asarray(related.make_images(count, 2) / 255.0).reshape(count, -1))
    relations.bank_features[...] = relations.bank_features[...].at[:count].set(features)
    relations.bank_labels[...] = relations.bank_labels[...].at[:count].set(0)


def measure(system, *, devices=1, mapping="pmap", batch_size=8, filled=5, banks=None):
    """(model, evaluation with predictions and contexts)."""
    mapper = Mapper(mapping, jax.devices()[:devices])
    model = related.make_model(system)
    if filled:
        fill(model, filled)
    blueprint, params, stats = take_apart(model)
    state = mapper.replicate({"params": params, "stats": stats})
    evaluator = Evaluator(system, mapper, blueprint, flip=True)
    batches = related.make_batches(IMAGES, LABELS, batch_size)
    found = evaluator.run(state, batches, keep_predictions=True)
    found.contexts = evaluator.in_contexts(state, found.predictions, banks)
    return model, found


def network_input():
    return jnp.asarray(IMAGES / np.float32(255))


@functools.partial(nnx.jit, static_argnames="context")
def logits_of(model, images, context=None, bank=None):
    return model(images, comparison=Comparison(None, context, bank))["logits"]


def nll(logits):
    known = LABELS >= 0
    return -log_softmax(logits)[known, LABELS[known]].mean()


def test_every_context_is_what_the_model_gives_for_whole_images():
    other = contexts.bank_of(np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32))
    model, found = measure(related.make_system(), banks={3: other})
    images = network_input()
    expected = {
        "self": nll(logits_of(model, images, "self")),
        "bank": nll(logits_of(model, images, "bank")),
        "bank3": nll(logits_of(model, images, "bank", other)),
    }
    orders = []
    for number in range(5):
        order, logits = contexts.shuffled(COUNT, number), np.zeros((COUNT, 4))
        for rows in np.split(order, (8, 16)):  # the last batch has five images
            logits[rows] = logits_of(model, images[rows], "batch")
        orders.append(nll(logits))
    assert list(found.contexts) == ["self", "bank", "batch", "bank3"]
    for name, value in expected.items():
        assert found.contexts[name]["nll"] == pytest.approx(value, abs=2e-6)
    assert found.contexts["batch"]["nll"] == pytest.approx(np.mean(orders), abs=2e-6)
    assert found.contexts["batch"]["nll_sd"] == pytest.approx(np.std(orders, ddof=1), abs=2e-6)
    # What is compared matters here, more than rounding does.
    values = [*expected.values(), *orders]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 1e-4
    # The plain row has the context of the settings, and each row the same metrics.
    assert found.metrics["nll"] == pytest.approx(expected["bank"], abs=2e-6)
    assert found.contexts["self"].keys() == found.contexts["bank3"].keys() == found.metrics.keys()
    spreads = {f"{name}_sd" for name in found.metrics}
    assert found.contexts["batch"].keys() == found.metrics.keys() | spreads
    assert list(found.of_split("test"))[1:] == [
        "test_self",
        "test_bank",
        "test_batch",
        "test_bank3",
    ]


@pytest.mark.parametrize(("context", "mapping"), [("bank", "pmap"), ("batch", "shard_map")])
def test_results_depend_on_neither_devices_nor_the_batches_of_the_pass(context, mapping):
    system = related.make_system(context=context)
    _, one = measure(system, batch_size=4)
    _, eight = measure(system, devices=8, mapping=mapping, batch_size=16)
    assert one.metrics.keys() == eight.metrics.keys() and one.flip is None
    for name, value in one.metrics.items():
        assert eight.metrics[name] == pytest.approx(value, abs=1e-6)
    assert one.contexts.keys() == eight.contexts.keys()
    for name, figures in one.contexts.items():
        assert eight.contexts[name] == pytest.approx(figures, abs=1e-6)
    np.testing.assert_allclose(
        eight.predictions["logits"], one.predictions["logits"], rtol=0, atol=1e-5
    )


def test_context_batch_measures_the_first_shuffle():
    model, found = measure(related.make_system(context="batch"))
    logits = np.zeros((COUNT, 4))
    for rows in np.split(contexts.shuffled(COUNT, 0), (8, 16)):
        logits[rows] = logits_of(model, network_input()[rows])
    np.testing.assert_allclose(found.predictions["logits"], logits, atol=1e-5)
    assert found.metrics["nll"] == pytest.approx(nll(logits), abs=2e-6)
    assert found.metrics["loss"] == found.metrics["nll"]
    np.testing.assert_array_equal(found.predictions["expression"], LABELS)


def test_an_empty_bank_has_no_row():
    _, found = measure(related.make_system(), filled=0)
    assert list(found.contexts) == ["self", "batch"]
    assert found.metrics["nll"] == pytest.approx(found.contexts["self"]["nll"], abs=2e-6)


def test_missing_labels_are_no_predictions():
    """A label that the model does not predict is kept under the name of the output."""
    system = related.make_system()
    mapper, model = Mapper("pmap", jax.devices()[:1]), related.make_model(system)
    blueprint, params, stats = take_apart(model)
    state = mapper.replicate({"params": params, "stats": stats})
    evaluator = Evaluator(system, mapper, blueprint)
    missing = {"landmarks": np.full((8, 68, 2), np.nan, np.float32)}
    batches = [batch | missing for batch in related.make_batches(IMAGES, LABELS, 8)]
    predictions = evaluator.run(state, batches, keep_predictions=True).predictions
    assert np.isnan(predictions["landmarks"]).all()
    found = evaluator.in_contexts(state, predictions)
    assert not any("invalid_predictions" in figures for figures in found.values())


def test_predictions_that_are_not_numbers_are_counted_in_every_context():
    system = related.make_system()
    mapper, model = Mapper("pmap", jax.devices()[:1]), related.make_model(system)
    fill(model)
    blueprint, params, stats = take_apart(model)
    state = mapper.replicate({"params": params, "stats": stats})
    evaluator = Evaluator(system, mapper, blueprint)
    batches = related.make_batches(IMAGES, LABELS, 8)
    predictions = evaluator.run(state, batches, keep_predictions=True).predictions
    predictions["image_features"][2] = np.nan
    found = evaluator.in_contexts(state, predictions)
    assert found["self"]["invalid_predictions"] == found["bank"]["invalid_predictions"] == 1
    # In a batch the image spoils the others that it is compared with.
    assert found["batch"]["invalid_predictions"] > 1


def test_models_without_relations_between_images_have_no_contexts():
    system = related.make_system(itrr=False, nnldl=False, lgifo=True)
    assert contexts.image_relations(system) is None
    assert contexts.image_relations(related.make_system()).bank_size == 7


def test_shuffles_are_the_same_in_every_run():
    np.testing.assert_array_equal(contexts.shuffled(8, 0), [3, 6, 4, 0, 7, 5, 2, 1])
    assert len({tuple(contexts.shuffled(20, k)) for k in range(contexts.SHUFFLES)}) == 5


def test_mean_and_standard_deviation():
    found = contexts.mean_and_sd([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0, "c": 1.0}])
    assert found == {"a": 2.0, "b": 2.0, "a_sd": pytest.approx(2**0.5), "b_sd": 0.0}


def test_columns_of_a_table():
    names = ("self", "bank", "batch", "bank32", "flip", "", "bank_x")
    assert [context_rows.column(name) for name in names] == [
        "context self", "context bank", "context batch", "bank of 32", None, None, None,
    ]  # fmt: skip
