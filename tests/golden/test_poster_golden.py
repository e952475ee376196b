"""POSTER++, ARBEx's backbone and their two networks against the released ones."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax.weights.released import convert
from tests.golden import golden_data as golden

CASES = {
    "ir50": "ir50",
    "mobilefacenet": "mobilefacenet",
    "arbex_poster": "arbex",
    "poster7": "poster_v2",
    "poster8": "poster_v2",
}


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, state, images):
    return nnx.merge(graphdef, state, copy=True)(images)


def outputs(model, images):
    """What a model gives for the recorded pictures.

    The last layer is applied apart from the rest, which is then one program for all networks that
    differ in nothing else: compiling it takes longer than all calls.
    """
    head = getattr(model, "head", None)
    if head is not None:
        assert model.n_expression == head.out_features
        model = nnx.clone(model)
        model.head, model.n_expression = None, 0
    found = run(*nnx.split(model), images)
    if head is not None:
        found["logits"] = head(found["embedding"])
    return jax.device_get(found)


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ir50", marks=pytest.mark.slow),  # both are parts of the others
        pytest.param("mobilefacenet", marks=pytest.mark.slow),
        "arbex_poster",
        "poster7",
        pytest.param("poster8", marks=pytest.mark.slow),  # differs in its last layer
    ],
)
def test_outputs_are_those_of_the_released_network(name, dtype):
    released = convert.release(CASES[name])
    model = golden.build(CASES[name], name, "float32")
    images = golden.network_input(name, released.preprocessing)
    with golden.precision(dtype):
        given = model if dtype == "float32" else golden.widen(model, CASES[name], name)
        found = outputs(given, images.astype(dtype))
    for output in golden.manifest(name)["outputs"]:
        golden.assert_recorded(name, output, np.asarray(found[output]), dtype)


def test_what_never_reaches_the_output_is_skipped_by_name():
    """Exactly the entries that the record calls unused, so that no live one is lost."""
    for name, architecture in CASES.items():
        unused = convert.release(architecture).unused
        entries = golden.manifest(name)["state_dict"]
        expected = {
            e["name"]
            for e in entries
            if (e["kind"] == "int" or not e["used"]) and "num_batches" not in e["name"]
        }
        found = {e["name"] for e in entries if e["name"].startswith(unused)}
        assert {n for n in found if "num_batches" not in n} == expected, name
