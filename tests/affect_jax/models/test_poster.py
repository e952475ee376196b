"""POSTER++ and its two networks at small sizes, and its parts against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.models.layers import Layers, PReLU, resize_nearest
from affect_jax.models.mobilefacenet import DepthwiseConv
from affect_jax.models.poster import (
    TINY,
    CrossFusion,
    WindowCrossAttention,
    _from_windows,
    _to_windows,
    relative_positions,
)
from affect_jax.models.state import take_apart

SMALL = {
    "input_size": 32,
    "image_width": 4,
    "image_stages": (1, 1, 1),
    "landmark_width": 4,
    "landmark_stages": (1, 1, 1),
    "dims": (4, 8, 8),
    "windows": (4, 4, 2),
    "heads": (1, 2, 2),
    "embedding": 16,
    "vit_depth": 1,
    "vit_heads": 2,
}
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RANDOM.standard_normal(shape), jnp.float32)


def layers(**values):
    return Layers(nnx.Rngs(0), **values)


# ------------------------------------------------------------------------ parts


def test_nearest_takes_the_floor_of_the_source_index():
    x = jnp.arange(7 * 10).reshape(1, 7, 10, 1)
    rows, columns = np.arange(5) * 7 // 5, np.arange(5) * 10 // 5
    np.testing.assert_array_equal(resize_nearest(x, 5)[0, :, :, 0], x[0, rows][:, columns, 0])
    np.testing.assert_array_equal(resize_nearest(x[:, :, :7], 7), x[:, :, :7])
    enlarged = resize_nearest(x, 20)[0, :, :, 0]
    np.testing.assert_array_equal(enlarged[:, 0], x[0, np.arange(20) * 7 // 20, 0, 0])


def test_prelu_has_a_slope_for_every_feature():
    act = PReLU(3)
    act.slope[...] = jnp.array([0.0, 0.5, 2.0])
    x = jnp.array([[-2.0, -2.0, -2.0], [3.0, 3.0, 3.0]])
    np.testing.assert_array_equal(act(x), [[0.0, -1.0, -4.0], [3.0, 3.0, 3.0]])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (9, 6)])
def test_depthwise_is_the_grouped_convolution(stride, shape):
    conv = DepthwiseConv(5, stride, layers())
    blueprint, params, stats = take_apart(conv)
    x, kernel = normal(2, *shape, 5), params["kernel"]

    def ours(x, kernel):
        return blueprint.build({"kernel": kernel}, stats)(x)

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )

    got, gradients = jax.vjp(ours, x, kernel)
    expected, expected_gradients = jax.vjp(grouped, x, kernel)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    direction = normal(*got.shape)
    for one, other in zip(gradients(direction), expected_gradients(direction), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_relative_positions_count_query_minus_key_row_by_row():
    index, size = relative_positions(3), 3
    for query in range(9):
        for key in range(9):
            rows, columns = query // 3 - key // 3, query % 3 - key % 3
            assert index[query, key] == (rows + size - 1) * 5 + columns + size - 1


def test_cross_attention_by_hand():
    attention = WindowCrossAttention(4, 2, 2, layers())
    attention.position_bias[...] = normal(9, 2)
    queries, x = normal(1, 4, 4), normal(1, 4, 4)
    both = x[0] @ attention.key_value.kernel[...] + attention.key_value.bias[...]
    key, value = both[:, :4], both[:, 4:]
    found = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        scores = queries[0, :, part] @ key[:, part].T / np.sqrt(2)
        scores += attention.position_bias[...][relative_positions(2), head]
        found.append(jax.nn.softmax(scores) @ value[:, part])
    expected = np.concatenate(found, axis=1) @ attention.output.kernel[...]
    np.testing.assert_allclose(attention(queries, x)[0], expected, atol=1e-5)


def test_windows_are_squares_of_the_map_in_reading_order():
    x = jnp.arange(2 * 36).reshape(2, 6, 6, 1)
    windows = _to_windows(x, 3)
    assert windows.shape == (8, 9, 1)
    np.testing.assert_array_equal(windows[1, :, 0], x[0, :3, 3:, 0].ravel())
    np.testing.assert_array_equal(windows[6, :, 0], x[1, 3:, :3, 0].ravel())
    np.testing.assert_array_equal(_from_windows(windows, 3, 6).reshape(x.shape), x)


def test_fusion_starts_behind_its_norm_and_sees_one_window_at_a_time():
    fusion = CrossFusion(4, 2, 2, 0.5, 0.0, layers())
    landmarks, image = normal(1, 4, 4, 4), normal(1, 4, 4, 4)
    plain = fusion(landmarks, image, None)
    np.testing.assert_allclose(plain, fusion(landmarks, 5 * image, None), atol=1e-3)
    changed = fusion(landmarks, image.at[0, 0, 3, 0].add(1.0), None)
    differs = np.abs(changed - plain).max(-1)[0] > 1e-6
    np.testing.assert_array_equal(differs, np.pad(np.ones((2, 2), bool), ((0, 2), (2, 0))))


def test_stochastic_depth_drops_whole_branches_while_training():
    fusion = CrossFusion(4, 2, 2, 1.0, 0.5, layers())
    landmarks = jnp.tile(normal(1, 2, 2, 4), (64, 1, 1, 1))
    image = jnp.tile(normal(1, 2, 2, 4), (64, 1, 1, 1))
    found = fusion(landmarks, image, nnx.Rngs(dropout=1))
    kinds = np.unique(np.round(np.asarray(found).reshape(64, -1), 4), axis=0)
    assert len(kinds) == 4  # either branch there (doubled) or not
    fusion.eval()
    np.testing.assert_allclose(fusion(landmarks, image, None)[0], fusion(landmarks, image, None)[1])


# ----------------------------------------------------------------------- models


def shapes(name, size, **arguments):
    model = models.create(name, **arguments)
    return nnx.eval_shape(
        lambda model, x: model(x, rngs=nnx.Rngs(0)), model, jnp.zeros((2, size, size, 3))
    )


def test_maps_of_the_two_networks():
    found = shapes("ir50", 64, width=4, stage_sizes=(1, 2, 1), input_size=48)
    assert [found[f"x{i}"].shape for i in (1, 2, 3)] == [
        (2, 24, 24, 4),
        (2, 12, 12, 8),
        (2, 6, 6, 16),
    ]
    found = shapes("mobilefacenet", 40, width=4, stage_sizes=(1, 0, 1), input_size=48)
    assert found["out3"].shape == (2, 12, 12, 4)
    assert found["out4"].shape == (2, 6, 6, 8)
    assert found["conv_features"].shape == (2, 3, 3, 32)


def test_outputs_with_and_without_classes_regression_and_reliability():
    found = shapes("poster_v2", 40, **SMALL, n_expression=5)
    assert {k: v.shape for k, v in found.items()} == {"embedding": (2, 16), "logits": (2, 5)}
    assert shapes("arbex_backbone", 40, **SMALL).keys() == {"embedding"}
    found = shapes("poster_v2", 40, **SMALL, n_expression=0, regression=True)
    assert found.keys() == {"embedding", "valence", "arousal"}
    found = shapes("poster_v2", 40, **SMALL, n_expression=5, reliability={"anchors": 2})
    assert found["corrected"].shape == found["logits"].shape == (2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 40}, "multiple of 16, got 40"),
        ({"windows": (4, 3, 2)}, r"windows\[1\] = 3 does not divide the map of 4 pixels"),
        ({"heads": (1, 2)}, "one number for each of the three scales"),
        ({"heads": (1, 3, 2)}, "8 features cannot be divided among 3 heads"),
        ({"n_expression": -1}, "n_expression must be at least 0"),
        ({"image_stages": (1, 1)}, "three numbers"),
        ({"positions": "random"}, "positions must be one of normal, waves"),
        ({"positions": "waves", "embedding": 18, "vit_heads": 2}, "multiple of 4; got"),
    ],
)
def test_sizes_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        models.create("poster_v2", **{**SMALL, **changes})


def test_every_parameter_of_a_small_one_is_trained():
    model = models.create("poster_v2", **SMALL, n_expression=3, layer_scale=0.5)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    images, labels = normal(4, 32, 32, 3), jnp.array([0, 1, 2, 0])

    @jax.jit
    def gradient(params):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            logits = model(images, rngs=nnx.Rngs(dropout=0))["logits"]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels])

        return jax.grad(loss)(params)

    for path, leaf in nnx.to_flat_state(gradient(params)):
        assert np.any(leaf[...]), path


def test_waves_tell_the_places_of_every_scale_apart():
    model = models.create("poster_v2", **SMALL, positions="waves")
    token, *scales = jnp.split(model.transformer.pos_embed[0], [1, 5, 9])
    assert np.abs(token).max() < 0.2
    for places in scales:  # 2 x 2 of them, each half as many numbers for the row and the column
        np.testing.assert_allclose(places, scales[0], atol=0.2)
        distances = np.linalg.norm(places[:, None] - places, axis=-1)
        assert distances[~np.eye(4, dtype=bool)].min() > 0.5


def test_the_tiny_preset_is_tiny_and_may_be_changed():
    model = models.create("poster_v2_tiny", dims=(16, 32, 64))
    assert sum(x.size for x in take_apart(model)[1].values()) < 1.2e6
    assert model.fusions[0].norm.scale.shape == (16,)
    assert model.image_net.input_size == TINY["input_size"]
