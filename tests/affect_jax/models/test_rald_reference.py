"""The NumPy transcription of RALD against values worked out by hand."""

import math

import numpy as np
import pytest

from tests.affect_jax.models import rald_reference as reference

LN3 = math.log(3)
NEAR = {"rtol": 0, "atol": 1e-14}


def without_ffn(width, **arrays):
    """Parameters of a module whose FFN is 0 and whose norm is plain."""
    return {
        "fc1": np.zeros((width, 4 * width)),
        "fc1_bias": np.zeros(4 * width),
        "fc2": np.zeros((4 * width, width)),
        "fc2_bias": np.zeros(width),
        "norm_scale": np.ones(width),
        "norm_bias": np.zeros(width),
        **arrays,
    }


def identity(width):
    eye = np.eye(width)
    return without_ffn(width, query=eye, key=eye, value=eye, out=eye)


def random_module(rng, width, inner, *, key_width=None, out_rows=None, value=True):
    """Parameters without structure; keys of `key_width` features, `out_rows` rows of W_MSA."""
    shapes = {
        "query": (width, inner),
        "key": (key_width or width, inner),
        "out": (out_rows or inner, width),
        "fc1": (width, 4 * width),
        "fc1_bias": (4 * width,),
        "fc2": (4 * width, width),
        "fc2_bias": (width,),
        "norm_scale": (width,),
        "norm_bias": (width,),
        "bias": (3,),
    }
    if value:
        shapes["value"] = (width, inner)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def einsum_module(queries, keys, values, params, heads, scale, bias=0.0, whole=False):
    """The attention and its norm again, in whole arrays and with PyTorch's layout of heads."""

    def split(projected):
        return projected.reshape(len(projected), heads, -1)

    q, k = split(queries @ params["query"]), split(keys @ params["key"])
    scores = scale * np.einsum("bhd,chd->hbc", q, k) + bias
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    if whole:
        attended = np.einsum("hbc,cl->bhl", weights, values)
    else:
        attended = np.einsum("hbc,chd->bhd", weights, split(values @ params["value"]))
    msa = attended.reshape(len(queries), -1) @ params["out"]
    hidden = msa @ params["fc1"] + params["fc1_bias"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    total = msa + hidden @ params["fc2"] + params["fc2_bias"]
    normed = (total - total.mean(-1, keepdims=True)) / np.sqrt(total.var(-1) + 1e-5)[:, None]
    return normed * params["norm_scale"] + params["norm_bias"], weights.mean(0)


# ---- Shared parts


def test_softmax_leaves_masked_scores_out():
    scores = np.array([LN3, np.nan, 0.0])
    allowed = np.array([True, False, True])
    np.testing.assert_allclose(reference.softmax(scores, allowed), [0.75, 0, 0.25], **NEAR)
    assert reference.softmax(scores, np.zeros(3, bool)).tolist() == [0, 0, 0]
    assert reference.softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]


def test_log_softmax_stays_finite():
    np.testing.assert_allclose(
        reference.log_softmax(np.array([0.0, LN3])), [math.log(0.25), math.log(0.75)], **NEAR
    )
    assert reference.log_softmax(np.array([0.0, 2000.0])).tolist() == [-2000, 0]


def test_softplus_and_gelu():
    assert reference.softplus(0.0) == pytest.approx(math.log(2), abs=1e-15)
    assert reference.softplus(math.log(math.e - 1)) == pytest.approx(1, abs=1e-15)
    assert reference.softplus(-800.0) == 0
    assert reference.softplus(800.0) == 800
    # The normal distribution below 1 is 0.8413447460685429.
    assert reference.gelu(1.0) == pytest.approx(0.8413447460685429, abs=1e-15)
    assert reference.gelu(-1.0) == pytest.approx(-0.15865525393145707, abs=1e-15)


def test_feed_forward_of_one_feature():
    params = {
        "fc1": np.array([[1.0, -1, 0, 2]]),
        "fc1_bias": np.array([0.0, 0, 0, -2]),
        "fc2": np.array([[1.0], [1], [5], [7]]),
        "fc2_bias": np.array([0.5]),
    }
    # The hidden layer is gelu of 1, -1, 0, 0; gelu(1) + gelu(-1) = 0.6826894921370859.
    np.testing.assert_allclose(
        reference.feed_forward(np.array([[1.0]]), params), [[1.1826894921370859]], **NEAR
    )


def test_layer_norm_has_a_biased_variance_and_eps_under_the_root():
    row = np.array([[1.0, 3.0]])  # mean 2, variance 1
    scale, bias = np.array([1.0, 10.0]), np.array([0.0, 0.5])
    np.testing.assert_allclose(reference.layer_norm(row, scale, bias, 0.0), [[-1, 10.5]], **NEAR)
    np.testing.assert_allclose(reference.layer_norm(row, scale, bias, 3.0), [[-0.5, 5.5]], **NEAR)


# ---- Equations 1 and 2


def test_image_features_are_one_row_an_image():
    images = np.arange(12.0).reshape(2, 3, 2)
    features = reference.image_features(lambda image: image.sum(0), images)
    np.testing.assert_array_equal(features, [[6, 9], [24, 27]])


def test_a_coarse_label_is_the_mean_of_its_fine_ones():
    assert reference.phrase_vector(np.array([[1.0, 3.0], [3.0, 5.0]])).tolist() == [2, 4]
    fine = np.array([[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]])
    np.testing.assert_array_equal(
        reference.label_features(fine, [1, 1, 0]), [*fine.tolist(), [5, 6], [2, 2]]
    )
    np.testing.assert_array_equal(reference.label_features(fine), fine)


# ---- Equations 3 to 7

TWO = np.array([[1.0, 0, 0], [0, 1, 0]])
# Weights of 3/4 and 1/4 give (3/4, 1/4, 0): less its mean 1/3, (5, -1, -4) / 12.
TWO_RELATED = np.array([[5.0, -1, -4], [-1, 5, -4]]) / math.sqrt(14)


def test_itrr_of_two_images_by_hand():
    related, weights = reference.itrr(
        TWO, reference.compared_images(TWO), identity(3), heads=1, scale=LN3, eps=0.0
    )
    np.testing.assert_allclose(weights, [[0.75, 0.25], [0.25, 0.75]], **NEAR)
    np.testing.assert_allclose(related, TWO_RELATED, **NEAR)


def test_the_residual_is_added_before_the_ffn_and_the_norm():
    related, _ = reference.itrr(
        TWO,
        reference.compared_images(TWO),
        identity(3),
        heads=1,
        scale=LN3,
        residual=True,
        eps=0.0,
    )
    # (7/4, 1/4, 0) less its mean 2/3 is (13, -5, -8) / 12.
    np.testing.assert_allclose(
        related, np.array([[13.0, -5, -8], [-5, 13, -8]]) / math.sqrt(86), **NEAR
    )
    # An FFN that gives (0, 0, 6) whenever its input's first feature is 7/4, far up the GELU.
    params = identity(3)
    params["fc1"] = np.zeros((3, 12))
    params["fc1"][0, 0] = 400.0
    params["fc2"] = np.zeros((12, 3))
    params["fc2"][0, 2] = 1 / 400
    moved = reference.related_images(
        np.array([[0.75, 0.25, 0]]), TWO[:1], params, residual=True, eps=0.0
    )
    # (7/4, 1/4, 7/4) less its mean 5/4 is (1, -2, 1) / 2.
    np.testing.assert_allclose(moved, np.array([[1.0, -2, 1]]) / math.sqrt(2), **NEAR)


def test_two_heads_own_neighbouring_columns():
    features, eye = np.eye(2), np.eye(2)
    params = {"query": eye, "key": eye, "value": eye, "out": np.array([[1.0, 2], [3, 4]])}
    compared = reference.compared_images(features)
    queries, keys, values = reference.image_projections(features, compared.features, params)
    relations = reference.image_relations(queries, keys, 2, LN3)
    np.testing.assert_allclose(relations, [[[LN3, 0], [0, 0]], [[0, 0], [0, LN3]]], **NEAR)
    weights = reference.image_weights(relations, compared.valid)
    np.testing.assert_allclose(
        weights, [[[0.75, 0.25], [0.5, 0.5]], [[0.5, 0.5], [0.25, 0.75]]], **NEAR
    )
    attended = reference.image_attention(weights, values)
    np.testing.assert_allclose(attended, [[[0.75], [0.5]], [[0.5], [0.75]]], **NEAR)
    np.testing.assert_allclose(
        reference.image_heads(attended, params), [[2.25, 3.5], [2.75, 4]], **NEAR
    )


def test_identical_images_attend_uniformly():
    features = np.tile([[2.0, -1.0, 0.5]], (4, 1))
    _, weights = reference.itrr(
        features, reference.compared_images(features), identity(3), heads=3, scale=0.125
    )
    np.testing.assert_allclose(weights, np.full((4, 4), 0.25), **NEAR)


@pytest.mark.parametrize("junk", [np.nan, 1e6])
def test_an_invalid_image_neither_attends_nor_is_attended(junk):
    features = np.vstack([TWO[:1], np.full((1, 3), junk), TWO[1:]])
    valid = np.array([True, False, True])
    related, weights = reference.itrr(
        features,
        reference.compared_images(features, valid=valid),
        identity(3),
        heads=1,
        scale=LN3,
        eps=1e-30,
    )
    np.testing.assert_allclose(weights, [[0.75, 0, 0.25], [0, 0, 0], [0.25, 0, 0.75]], **NEAR)
    np.testing.assert_allclose(related[[0, 2]], TWO_RELATED, **NEAR)


def test_all_images_invalid_gives_no_relation():
    related, weights = reference.itrr(
        TWO,
        reference.compared_images(TWO, valid=np.zeros(2, bool)),
        identity(3),
        heads=1,
    )
    assert not weights.any()
    assert not related.any()


def test_context_self_is_the_image_alone():
    compared = reference.compared_images(TWO, "self")
    related, weights = reference.itrr(TWO, compared, identity(3), heads=1, scale=LN3, eps=0.0)
    assert weights.tolist() == [[1], [1]]
    np.testing.assert_allclose(related, np.array([[2.0, -1, -1], [-1, 2, -1]]) / math.sqrt(2))
    assert compared.own.tolist() == [0, 0]


def test_context_bank_ends_with_the_image_itself():
    bank = np.array([[0.0, 1, 0], [np.nan, np.nan, np.nan]])  # the second slot is empty
    compared = reference.compared_images(TWO, "bank", bank=bank, bank_valid=np.array([True, False]))
    related, weights = reference.itrr(TWO, compared, identity(3), heads=1, scale=LN3, eps=0.0)
    # The second image equals the slot, so both have half of its weight.
    np.testing.assert_allclose(weights, [[0.25, 0, 0.75], [0.5, 0, 0.5]], **NEAR)
    np.testing.assert_allclose(related[0], TWO_RELATED[0], **NEAR)
    assert compared.own.tolist() == [2, 2]


def test_an_unknown_context_is_refused():
    with pytest.raises(ValueError, match="'batch', 'self' or 'bank'"):
        reference.compared_images(TWO, "all")


# ---- Equations 8 to 12


def test_distances_of_a_small_tree():
    far = 500
    np.testing.assert_array_equal(
        reference.label_distances([0, 0, 1]),
        [
            [0, far, far, 1, far],
            [far, 0, far, 1, far],
            [far, far, 0, far, 1],
            [1, 1, far, 0, far],
            [far, far, 1, far, 0],
        ],
    )


def test_biases_decrease_with_the_distance():
    itself, relative, other = reference.distance_biases(np.array([1.0, 0.0, math.log(math.e - 1)]))
    assert itself == 1
    assert relative == pytest.approx(1 - math.log(2), abs=1e-15)
    assert other == pytest.approx(-math.log(2), abs=1e-15)
    biases = reference.label_biases(
        reference.label_distances([0], sigma=7.0), np.array([1.0, 0.0, 0.0])
    )
    assert biases.tolist() == [[1, relative], [relative, 1]]


def test_the_bias_of_labels_is_not_scaled():
    params = {"query": np.eye(2), "key": np.eye(2)}
    labels, biases = np.array([[2.0, 0], [0, 1]]), np.array([[0.5, -0.5], [-0.5, 0.5]])
    np.testing.assert_allclose(
        reference.label_relations(labels, params, biases, 1, 0.25),
        [[[1.5, -0.5], [-0.5, 0.75]]],
        **NEAR,
    )


def test_hlrr_by_its_bias_alone():
    # Scalars of log 4, log 2 and 0: weights of 4 itself, 2 parent or child, 1 sibling.
    params = identity(3) | {"query": np.zeros((3, 3)), "bias": np.array([math.log(4), 0, 0])}
    related = reference.hlrr(np.eye(3), params, heads=1, coarse_of=[0, 0], eps=0.0)
    expected = np.array([[5.0, -4, -1], [-4, 5, -1], [0, 0, 0]]) / math.sqrt(14)
    expected[2] = np.array([-1, -1, 2]) / math.sqrt(2)  # 2, 2 and 4 eighths
    np.testing.assert_allclose(related, expected, **NEAR)


def test_hlrr_without_a_tree_has_no_bias():
    params = identity(3) | {"query": np.zeros((3, 3))}
    labels = np.array([[3.0, 0, 0], [0, 0, 0], [0, 3, 0]])  # mean (1, 1, 0)
    related = reference.hlrr(labels, params, heads=3, eps=0.0)
    np.testing.assert_allclose(related, np.tile([[1, 1, -2]], (3, 1)) / math.sqrt(2), **NEAR)


# ---- Equations 13 to 17


def test_lgifo_gives_the_whole_labels_to_every_head():
    features, labels = np.array([[1.0, 5, 7]]), np.array([[1.0, 0], [0, 2]])
    params = without_ffn(
        3,
        query=np.array([[1.0, 0], [0, 0], [0, 0]]),
        key=np.array([[1.0, 1], [0, 1]]),
        out=np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]),
    )
    queries, keys, values = reference.guide_projections(features, labels, params)
    assert queries.tolist() == [[1, 0]]
    assert keys.tolist() == [[1, 1], [0, 2]]
    relations = reference.guide_relations(queries, keys, 2, LN3)
    np.testing.assert_allclose(relations, [[[LN3, 0]], [[0, 0]]], **NEAR)
    attended = reference.guide_attention(relations, values)
    np.testing.assert_allclose(attended, [[[0.75, 0.5]], [[0.5, 1]]], **NEAR)
    np.testing.assert_allclose(reference.guide_heads(attended, params), [[1.75, 1.5, 1.5]], **NEAR)
    guided = reference.lgifo(features, labels, params, heads=2, scale=LN3, eps=0.0)
    np.testing.assert_allclose(guided, np.array([[2, -1, -1]]) / math.sqrt(2), **NEAR)


def test_fine_head_gives_a_distribution():
    params = {"weight": np.array([[0.0, LN3], [0, 0]]), "bias": np.array([0.0, 1.0])}
    logits, predictions = reference.fine_head(np.array([[1.0, 9], [-1 / LN3, 9]]), params)
    np.testing.assert_allclose(logits, [[0, LN3 + 1], [0, 0]], **NEAR)
    high = 3 * math.e / (1 + 3 * math.e)
    np.testing.assert_allclose(predictions, [[1 - high, high], [0.5, 0.5]], **NEAR)


# ---- All modules against whole arrays, with several heads and widths that differ


def test_every_row_against_whole_arrays():
    rng = np.random.default_rng(0)
    heads, coarse_of, scale = 2, [0, 0, 1], 0.125
    features, labels = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
    params = {
        "itrr": random_module(rng, 5, 6),
        "hlrr": random_module(rng, 3, 8),
        "lgifo": random_module(rng, 5, 4, key_width=3, out_rows=heads * 3, value=False),
        "head": {"weight": rng.normal(size=(5, 3)), "bias": rng.normal(size=3)},
    }
    bias = reference.label_biases(reference.label_distances(coarse_of), params["hlrr"]["bias"])
    images, weights = einsum_module(features, features, features, params["itrr"], heads, scale)
    nodes, _ = einsum_module(labels, labels, labels, params["hlrr"], heads, scale, bias)

    def guided(queries, keys):
        return einsum_module(queries, keys, keys, params["lgifo"], heads, scale, whole=True)[0]

    embedded = {
        "a": features,
        "b": images,
        "c": images,
        "d": guided(features, labels),
        "e": guided(images, labels),
        "f": guided(features, nodes),
        "g": guided(images, nodes),
        "all": guided(images, nodes),
    }
    assert set(embedded) == set(reference.ROWS)
    for row, embedding in embedded.items():
        used = {name: params[name] for name in (reference.ROWS[row] - {"nnldl"}) | {"head"}}
        outputs = reference.forward(
            row, features, labels, used, heads=heads, scale=scale, coarse_of=coarse_of
        )
        logits = embedding @ params["head"]["weight"] + params["head"]["bias"]
        np.testing.assert_allclose(outputs.logits, logits, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            outputs.predictions, np.exp(logits) / np.exp(logits).sum(-1)[:, None], atol=1e-12
        )
        if row in ("a", "d", "f"):
            assert outputs.relations is None
        else:
            np.testing.assert_allclose(outputs.relations, weights, rtol=0, atol=1e-12)


def test_forward_passes_its_options_on():
    rng = np.random.default_rng(1)
    features, bank = rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    slots, valid = np.array([False, True]), np.array([True, True, False])
    params = {
        "itrr": random_module(rng, 4, 6),
        "head": {"weight": np.eye(4), "bias": np.zeros(4)},
    }
    compared = reference.compared_images(features, "bank", valid, bank, slots)
    options = {"heads": 3, "scale": 0.5, "residual": True, "eps": 1e-3}
    related, weights = reference.itrr(features, compared, params["itrr"], **options)
    outputs = reference.forward(
        "b",
        features,
        None,
        params,
        context="bank",
        valid=valid,
        bank=bank,
        bank_valid=slots,
        **options,
    )
    np.testing.assert_array_equal(outputs.logits, related)
    np.testing.assert_array_equal(outputs.relations, weights)
    assert (outputs.relations[:2] > 0).tolist() == [[False, True, True]] * 2


# ---- Equations 18 to 21

RELATIONS = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5]])
PREDICTIONS = np.array([[1.0, 0], [0, 1], [0.5, 0.5]])


def test_neighbours_by_hand():
    # Image 0 has 1 (0.3) and 2 (0.2), image 1 has 2 (0.8) and 0 (0.1), image 2 has a tie.
    nearest_one, found = reference.label_distributions(RELATIONS, PREDICTIONS, k=1)
    np.testing.assert_allclose(nearest_one, [[0, 1], [0.5, 0.5], [1, 0]], **NEAR)
    assert found.all()
    both, _ = reference.label_distributions(RELATIONS, PREDICTIONS, k=2)
    np.testing.assert_allclose(both, [[0.2, 0.8], [5 / 9, 4 / 9], [0.5, 0.5]], **NEAR)


def test_k_beyond_the_batch_takes_all_there_are():
    np.testing.assert_array_equal(
        reference.label_distributions(RELATIONS, PREDICTIONS, k=5)[0],
        reference.label_distributions(RELATIONS, PREDICTIONS, k=2)[0],
    )


def test_invalid_images_are_no_neighbours():
    predictions = np.vstack([PREDICTIONS[:2], [[np.nan, np.nan]]])
    valid = np.array([True, True, False])
    distributions, found = reference.label_distributions(RELATIONS, predictions, 5, valid)
    np.testing.assert_array_equal(distributions[:2], [[0, 1], [1, 0]])
    assert found[:2].all()


def test_the_image_itself_may_be_another_column():
    bank = RELATIONS[:1]  # one image, itself in the last column
    distributions, _ = reference.label_distributions(bank, PREDICTIONS, k=1, own=[2])
    np.testing.assert_array_equal(distributions, [[1, 0]])


@pytest.mark.parametrize(
    ("relations", "valid"),
    [
        (np.ones((1, 1)), np.array([True])),  # alone
        (np.zeros((1, 1)), np.array([False])),
        (RELATIONS, np.zeros(3, bool)),
    ],
)
def test_without_neighbours_the_term_is_zero(relations, valid):
    count = len(relations)
    distributions, found = reference.label_distributions(
        relations, PREDICTIONS[:count], valid=valid
    )
    assert not distributions.any()
    assert not found.any()
    logits = np.ones((count, 2))
    for reduction in ("mean", "batchmean"):
        assert reference.distribution_loss(distributions, found, logits, valid, reduction) == 0


def test_distribution_loss_by_hand():
    distributions = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    logits = np.array([[0.0, 0.0], [0.0, LN3], [7.0, -7.0]])
    valid = np.array([True, True, False])
    # log 2 and log 4, over two images and two classes.
    arguments = distributions, valid, logits, valid
    assert reference.distribution_loss(*arguments) == pytest.approx(0.75 * math.log(2))
    assert reference.distribution_loss(*arguments, "batchmean") == pytest.approx(1.5 * math.log(2))
    # The second image is valid without a neighbour: it adds 0, and counts.
    found = np.array([True, False, False])
    assert reference.distribution_loss(distributions, found, logits, valid) == pytest.approx(
        0.25 * math.log(2)
    )


def test_cross_entropy_leaves_missing_labels_out():
    logits = np.array([[0.0, LN3], [0.0, 0.0], [9.0, 0.0], [np.nan, np.nan]])
    valid = np.array([True, True, True, False])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert reference.cross_entropy(logits, [1, 0, -1, 0], valid) == pytest.approx(expected)
    assert reference.cross_entropy(logits, [-1, -1, -1, 0], valid) == 0


def test_loss_of_the_rows_by_hand():
    logits = np.array([[0.0, LN3], [LN3, 0.0]])
    outputs = reference.Outputs(
        logits, np.array([[0.25, 0.75], [0.75, 0.25]]), np.array([[0.6, 0.4], [0.1, 0.9]])
    )
    cross = math.log(4 / 3)  # the second label is missing
    distribution = (0.75 * math.log(4) + 0.25 * math.log(4 / 3)) / 2  # each has the other's P
    for row in ("c", "all"):
        losses = reference.loss(row, outputs, [1, -1], lambda_kl=2.0)
        assert losses == pytest.approx((cross + 2 * distribution, cross, distribution))
        losses = reference.loss(row, outputs, [1, -1], reduction="batchmean")
        assert losses == pytest.approx((cross + 2 * distribution, cross, 2 * distribution))
    for row in ("a", "b", "d", "e", "f", "g"):
        assert reference.loss(row, outputs, [1, -1]) == pytest.approx((cross, cross, 0))
