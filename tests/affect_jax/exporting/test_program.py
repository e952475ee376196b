"""What a program takes and gives, and that it does not ask for the devices at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from affect_jax.errors import UserError
from affect_jax.exporting.program import LANDMARKS, Program, available
from affect_jax.models import attention
from affect_jax.models.landmarks import decode_heatmaps, grid_to_pixels
from tests.affect_jax import tiny_models

BANKED = {**tiny_models.RELATIONS, "context": "batch"}


@pytest.mark.parametrize("system", tiny_models.SYSTEMS)
def test_every_output_has_a_name_and_a_symbolic_batch(system):
    program = Program.of(tiny_models.loaded(system))
    (batch,) = export.symbolic_shape("batch")
    shapes = jax.eval_shape(program.function(), program.spec(batch))
    assert set(program.outputs) == set(shapes)
    assert all(value.shape[0] == batch for value in shapes.values())
    assert all(value.dtype == jnp.float32 for value in shapes.values())
    wanted = {
        "emofan": {"logits", "valence", "arousal", "heatmaps", "embedding"},
        "fan": {"heatmaps"},
        "arbex": {"logits", "embedding", "primary", "corrected", "confidence_primary",
                  "confidence_corrected", "anchor_distances"},
        "rald": {"logits", "embedding", "image_features", "relation_weights"},
        "features": {"logits", "valence", "arousal", "embedding"},
    }.get(system, {"logits", "embedding"})  # fmt: skip
    assert wanted <= set(shapes)


def test_outputs_are_chosen_and_landmarks_replace_heatmaps():
    loaded = tiny_models.loaded("emofan")
    assert Program.of(loaded, ["valence", "logits"]).outputs == ("valence", "logits")
    assert "heatmaps" in Program.of(loaded).outputs
    landmarks = Program.of(loaded, landmarks=True)
    assert "heatmaps" not in landmarks.outputs and landmarks.outputs[-2:] == LANDMARKS
    assert Program.of(loaded, ["logits"], landmarks=True).outputs == ("logits", *LANDMARKS)
    assert set(available(loaded)) >= {"heatmaps", *LANDMARKS}
    with pytest.raises(UserError, match="no output 'logit'; did you mean 'logits'"):
        Program.of(loaded, ["logit"])
    with pytest.raises(UserError, match="no heatmaps, so it has no landmarks"):
        Program.of(tiny_models.loaded("vit_se"), landmarks=True)


def test_landmarks_are_pixels_of_the_input():
    program = Program.of(tiny_models.loaded("fan"), landmarks=True)
    heatmaps = np.random.default_rng(0).normal(size=(2, 8, 8, 68)).astype(np.float32)
    found = program._chosen({"heatmaps": heatmaps})
    points, scores = decode_heatmaps(jnp.asarray(heatmaps))
    np.testing.assert_array_equal(found["landmarks"], grid_to_pixels(points, 8, tiny_models.SIDE))
    np.testing.assert_array_equal(found["landmark_scores"], scores)
    assert found["landmark_scores"].max() == heatmaps.max()


def test_the_input_is_uint8_images_or_features():
    images = Program.of(tiny_models.loaded("vit_se"))
    assert (images.input_name, images.spec(3).shape) == ("images", (3, 32, 32, 3))
    assert images.example(3).dtype == images.spec(3).dtype == np.uint8
    assert len(np.unique(images.example(3))) > 100
    features = Program.of(tiny_models.loaded("features"))
    assert (features.input_name, features.spec(2).shape) == ("features", (2, 12))
    assert features.example(2).dtype == np.float32


def test_models_that_mix_examples_are_known():
    assert not Program.of(tiny_models.loaded("rald")).mixes_examples
    arguments = {"n_features": 12, "n_expression": 3}
    related = tiny_models.make("features", arguments | {"relations": BANKED})
    assert Program.of(related).mixes_examples
    attentive = {"scope": "batch", "heads": 1, "anchors": 1}
    assert Program.of(
        tiny_models.make("features", arguments | {"reliability": attentive})
    ).mixes_examples


def test_attention_is_lowered_for_every_platform(monkeypatch):
    """As if a GPU with cuDNN were here when the model is exported."""
    arguments = {"depth": 1, "image_size": 32, "n_expression": 3, "dtype": "bfloat16"}
    program = Program.of(tiny_models.make("vit_ti16", arguments), ["logits"])
    monkeypatch.setattr(attention, "serves_cudnn", lambda *_: True)
    monkeypatch.setattr(attention, "_fused", lambda *_: pytest.fail("a kernel of one platform"))
    assert "bf16" in str(jax.make_jaxpr(program.function())(program.spec(2)))


def test_another_dtype_computes_in_it():
    arguments = {"depth": 1, "image_size": 32, "n_expression": 3, "dtype": "bfloat16"}
    program = Program.of(tiny_models.make("vit_ti16", arguments), ["logits"])
    assert "bf16" not in str(jax.make_jaxpr(program.function("float32"))(program.spec(2)))
