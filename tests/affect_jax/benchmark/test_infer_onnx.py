"""Our export in ONNX Runtime: what it loses in 8 bits."""

import pytest

from affect_jax.benchmark import infer_onnx
from tests.affect_jax import tiny_models


@pytest.mark.parametrize(("system", "bound"), [("emofan", 0.03), ("vit_se", 0.01)])
def test_eight_bits_change_probabilities_little(system, bound):
    pytest.importorskip("onnxruntime")
    model = tiny_models.loaded(system)
    engine, loss = infer_onnx.engine(model, ("logits",), int8=True)
    assert 0 < loss["mean_difference"] < bound
    assert loss["mean_difference"] <= loss["largest_difference"] < 1
    images = tiny_models.batch(system)
    (logits,) = engine.predict(images)
    assert logits.shape == (len(images), len(tiny_models.NAMES))
