"""MixUp and CutMix: against numpy, with missing labels and padding, over devices, in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from affect_jax import config as config_lib
from affect_jax import runtime, systems
from affect_jax.config import ConfigError
from affect_jax.evaluation import evaluator
from affect_jax.losses.supervised import softmax_cross_entropy
from affect_jax.runtime.parallel import AXIS, MAPPINGS, Mapper
from affect_jax.systems.emofan import EmoFANSystem
from affect_jax.training import loop, mixing, step
from tests.affect_jax import tiny

B, N, SIZE = 6, 4, 8
PARTNER = np.array([2, 0, 1, 4, 3, 5])  # 5 is its own partner
KEEP_MIXUP = np.full((SIZE, SIZE), 0.3, np.float32)
KEEP_CUTMIX = np.ones((SIZE, SIZE), np.float32)
KEEP_CUTMIX[2:6, 1:7] = 0
NAN = np.float32(np.nan)


def section(**changes) -> ConfigDict:
    values = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "switch": 0.5, "probability": 1.0}
    return ConfigDict({**values, **changes})


def make_batch(count: int = B, **changes) -> dict:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
        "expression": rng.integers(0, N, count).astype(np.int32),
        "valence_arousal": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "landmarks": rng.uniform(0, SIZE, (count, 68, 2)).astype(np.float32),
        "group": np.arange(count, dtype=np.int32),
        "mask": np.ones(count, bool),
    }
    return jax.tree.map(jnp.asarray, {**batch, **changes})


def recipe(keep: np.ndarray) -> mixing.Recipe:
    return mixing.Recipe(jnp.asarray(PARTNER), jnp.asarray(keep), jnp.float32(keep.mean()))


def combine(batch: dict, keep: np.ndarray = KEEP_MIXUP) -> dict[str, np.ndarray]:
    combined = jax.jit(mixing.combine, static_argnums=2)(batch, recipe(keep), N)
    return jax.device_get(combined)


@pytest.mark.parametrize("keep", [KEEP_MIXUP, KEEP_CUTMIX])
def test_given_weights_and_partners_equal_numpy(keep):
    batch = make_batch()
    new = combine(batch, keep)
    image = np.asarray(batch["image"], np.float64)
    share = keep[None, :, :, None].astype(np.float64)
    lam = keep.mean(dtype=np.float64)
    expected = share * image + (1 - share) * image[PARTNER]
    assert new["image"].dtype == np.float32
    np.testing.assert_allclose(new["image"], expected, atol=1e-4)
    one_hot = np.eye(N)[np.asarray(batch["expression"])]
    expected = lam * one_hot + (1 - lam) * one_hot[PARTNER]
    np.testing.assert_allclose(new["expression_probs"], expected, atol=1e-6)
    va = np.asarray(batch["valence_arousal"])
    expected = lam * va + (1 - lam) * va[PARTNER]
    np.testing.assert_allclose(new["valence_arousal"], expected, atol=1e-6)
    np.testing.assert_array_equal(new["expression"][:5], -1)
    assert np.isnan(new["landmarks"][:5]).all()
    np.testing.assert_array_equal(new["group"], batch["group"])


def test_features_are_mixed_by_mixup_alone():
    features = np.random.default_rng(1).standard_normal((B, 5), np.float32)
    batch = make_batch(image=features)
    new = combine(batch)
    np.testing.assert_allclose(new["image"], 0.3 * features + 0.7 * features[PARTNER], atol=1e-6)
    np.testing.assert_array_equal(new["image"][5], features[5])
    on = section(mixup_alpha=0.4)
    shapes = jax.eval_shape(lambda b, k: mixing.mix(b, k, on, N), batch, jax.random.key(0))
    assert shapes["image"].shape == (B, 5)
    with pytest.raises(ConfigError, match="CutMix pastes a part of an image, and the data are fe"):
        mixing.mix(batch, jax.random.key(0), section(mixup_alpha=0.4, cutmix_alpha=1.0), N)


def test_an_example_that_is_its_own_partner_stays_as_it_is():
    batch, new = make_batch(), combine(make_batch())
    for name in ("image", "expression", "valence_arousal", "landmarks"):
        np.testing.assert_array_equal(new[name][5], batch[name][5])


def test_lambda_1_changes_no_example():
    batch = make_batch(expression=np.array([0, 1, -1, 2, 3, 1], np.int32))
    new = combine(batch, np.ones((SIZE, SIZE), np.float32))
    for name in batch:
        np.testing.assert_array_equal(new[name], batch[name])
    np.testing.assert_array_equal(np.isnan(new["expression_probs"]).any(axis=1), np.arange(B) == 2)


def test_votes_are_mixed_as_distributions():
    votes = np.full((B, N), NAN)
    votes[0], votes[2] = [3, 1, 0, 0], [0, 0, 5, 5]
    batch = make_batch(expression_probs=votes, expression=np.array([0, 1, 2, 3, 0, 1], np.int32))
    new = combine(batch)["expression_probs"]
    np.testing.assert_allclose(new[0], [0.225, 0.075, 0.35, 0.35], atol=1e-6)
    np.testing.assert_allclose(new[1], [0.7 * 0.75, 0.3 + 0.7 * 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(new[3], [0.7, 0, 0, 0.3], atol=1e-6)
    np.testing.assert_allclose(new.sum(axis=1), 1, atol=1e-6)


def test_pairs_that_would_lose_an_expression_are_not_mixed():
    batch = make_batch(expression=np.array([0, -1, 2, -1, -1, 1], np.int32))
    new = combine(batch)  # pairs 0-2 whole; 1-0 and 2-1 half; 3-4 without expression
    mixed = np.isnan(new["landmarks"]).any(axis=(1, 2))
    np.testing.assert_array_equal(mixed, [True, False, False, True, True, False])
    for name in ("image", "expression", "valence_arousal"):
        np.testing.assert_array_equal(new[name][~mixed], batch[name][~mixed])
    np.testing.assert_array_equal(new["expression_probs"][2], [0, 0, 1, 0])
    assert np.isnan(new["expression_probs"][[1, 3, 4]]).all()
    assert np.isfinite(new["valence_arousal"]).all()


def test_missing_valence_and_arousal():
    va = np.full((B, 2), 0.5, np.float32)
    va[2, 0] = va[4] = NAN
    new = combine(make_batch(valence_arousal=va))["valence_arousal"]
    np.testing.assert_array_equal(np.isnan(new[:, 0]), [True, False, True, True, True, False])
    np.testing.assert_array_equal(np.isnan(new[:, 1]), [False, False, False, True, True, False])
    # Without expressions valence and arousal are all there is: none is given up.
    batch = make_batch(valence_arousal=va, expression=np.full(B, -1, np.int32))
    np.testing.assert_array_equal(combine(batch)["valence_arousal"], va)


def test_padding_neither_gives_nor_takes():
    mask = np.array([True, True, False, True, False, True])
    batch = make_batch(mask=mask)
    new = combine(batch)
    mixed = np.isnan(new["landmarks"]).any(axis=(1, 2))
    np.testing.assert_array_equal(mixed, [False, True, False, False, False, False])
    np.testing.assert_array_equal(new["image"][~mixed], batch["image"][~mixed])
    poisoned = {**batch, "image": batch["image"].at[~mask].set(255)}
    np.testing.assert_array_equal(combine(poisoned)["image"][mask], new["image"][mask])


def test_mixing_pixels_is_mixing_normalised_input():
    batch = make_batch()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    after = np.asarray(evaluator.normalise(batch["image"], mean, std))
    share = KEEP_CUTMIX[None, :, :, None]
    expected = share * after + (1 - share) * after[PARTNER]
    got = evaluator.normalise(combine(batch, KEEP_CUTMIX)["image"], mean, std)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_loss_reads_the_mixed_labels():
    new = combine(make_batch())
    logits = np.random.default_rng(1).normal(size=(B, N)).astype(np.float32)
    expected = -(new["expression_probs"] * np.asarray(jax.nn.log_softmax(logits))).sum(1).mean()
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, new["expression_probs"]), expected, rtol=1e-5
    )


def test_off_is_the_same_object():
    batch = make_batch()
    for values in ({}, {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "probability": 0.0}):
        assert mixing.mix(batch, jax.random.key(0), section(**values), N) is batch


def draws(settings: ConfigDict, count: int, size: int) -> mixing.Recipe:
    keys = jax.random.split(jax.random.key(7), count)
    one = jax.jit(jax.vmap(lambda key: mixing.draw(key, settings, B, size, size)))
    return jax.device_get(one(keys))


def test_cutmix_lambda_is_the_area_that_is_left():
    """1000 draws. A box of side s around a uniform centre keeps (s - s^2 / 4)^2 inside; with
    s^2 = 1 - lambda uniform in (0, 1) that is 77 / 240 in the mean."""
    drawn = draws(section(cutmix_alpha=1.0), 1000, 64)
    assert set(np.unique(drawn.keep)) == {0, 1}
    np.testing.assert_allclose(drawn.lam, drawn.keep.mean(axis=(1, 2)), rtol=1e-6)
    area = 1 - drawn.lam
    assert abs(area.mean() - 77 / 240) < 4 * area.std() / np.sqrt(1000)
    # Every hole is one box: as many pixels as its rows times its columns.
    hole = drawn.keep == 0
    sides = hole.any(axis=2).sum(axis=1) * hole.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(sides, hole.sum(axis=(1, 2)))


@pytest.mark.parametrize("lam", [0.0, 0.4375, 0.75, 1.0])
def test_boxes_that_fit_have_the_area_1_minus_lambda(lam):
    keys = jax.random.split(jax.random.key(3), 200)
    one = jax.vmap(lambda key, lam: mixing.cutmix_box(key, lam, 16, 32), (0, None))
    boxes = jax.jit(one)(keys, jnp.float32(lam))
    areas = np.asarray(boxes).mean(axis=(1, 2))
    assert areas.max() <= 1 - lam
    if lam == 0.0:  # as large as the picture: a quarter is left where the middle is a corner
        assert areas.min() >= 0.25
        assert areas.max() > 0.85
    else:
        assert np.isclose(areas, 1 - lam).any()


def test_mixup_lambda_is_beta():
    lam = draws(section(mixup_alpha=0.4), 1000, 4).lam
    variance = 1 / (4 * (2 * 0.4 + 1))
    assert abs(lam.mean() - 0.5) < 4 * np.sqrt(variance / 1000)
    np.testing.assert_allclose(lam.var(), variance, rtol=0.1)


def test_shares_of_kinds_and_of_mixed_batches():
    drawn = draws(
        section(mixup_alpha=1.0, cutmix_alpha=1.0, switch=0.25, probability=0.6), 1000, 16
    )
    # Binomial standard deviations are below 0.016; a box rounded to nothing is rare.
    whole = drawn.lam == 1
    assert abs(whole.mean() - 0.4) < 0.07
    cut = ~whole & np.isin(drawn.keep, (0, 1)).all(axis=(1, 2))
    assert abs(cut.mean() - 0.6 * 0.25) < 0.05
    np.testing.assert_array_equal(np.sort(drawn.partner, axis=1), np.tile(np.arange(B), (1000, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup_alpha": -0.1}, r"config\.mixing\.mixup_alpha = -0\.1; .* positive"),
        ({"cutmix_alpha": float("nan")}, r"config\.mixing\.cutmix_alpha = nan"),
        ({"mixup_alpha": float("inf")}, r"config\.mixing\.mixup_alpha = inf"),
        ({"switch": 1.5}, r"config\.mixing\.switch = 1\.5; .* from 0 to 1"),
        ({"probability": -1.0}, r"config\.mixing\.probability"),
    ],
)
def test_wrong_values_name_their_key(changes, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        mixing.mix(make_batch(), jax.random.key(0), section(**changes), N)


def test_one_example_has_no_partner():
    with pytest.raises(config_lib.ConfigError, match=r"config\.batch_size"):
        mixing.check(section(mixup_alpha=0.2), 1)
    assert not mixing.check(section(), 1)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
@pytest.mark.parametrize("each", [1, 4])
def test_eight_devices_mix_the_global_batch_as_one_does(mapping, kind, each):
    mapper = Mapper(mapping)
    assert len(mapper.devices) == 8
    batch = make_batch(8 * each)
    batch["mask"] = batch["mask"].at[5].set(False)
    batch["valence_arousal"] = batch["valence_arousal"].at[3].set(jnp.nan)
    host = jax.device_get(batch)
    settings, key = section(**{kind: 1.0}), jax.random.key(11)
    step = mapper.map(lambda key, b: mixing.mix(b, key, settings, N, AXIS), sharded_output=True)
    rows = mapper.local_rows(step(key, mapper.place(host)))
    whole = jax.device_get(jax.jit(lambda b, key: mixing.mix(b, key, settings, N))(batch, key))
    assert rows.keys() == whole.keys()
    for name in whole:
        np.testing.assert_allclose(rows[name], whole[name], rtol=1e-6, atol=1e-5, err_msg=name)
    assert (whole["expression"] < 0).sum() > each


def test_a_landmark_phase_is_not_mixed():
    config = tiny.config(mixing__mixup_alpha=0.2)
    system = systems.create(
        config, class_names=("a", "b"), has=frozenset({"landmarks"}), class_counts=(1, 1)
    )
    assert [(p.name, system.mixes(p)) for p in system.phases(100)] == [
        ("landmarks", False),
        ("emotion", True),
    ]


def test_tiny_run_trains_on_mixed_batches(tmp_path, monkeypatch):
    """What reaches the network is the mixed image, what reaches the loss the mixed labels."""
    pictures, labels = [], []
    normalise, loss = step.normalise, EmoFANSystem.loss

    def seen_normalise(images, *args):
        pictures.append(images.dtype)
        return normalise(images, *args)

    def seen_loss(self, inputs, phase):
        labels.append("expression_probs" in inputs.batch)
        return loss(self, inputs, phase)

    monkeypatch.setattr(step, "normalise", seen_normalise)
    monkeypatch.setattr(EmoFANSystem, "loss", seen_loss)
    config = tiny.one_block(
        report__pictures=False,
        num_steps=1,
        eval_every=1,
        mixing__mixup_alpha=0.2,
        mixing__cutmix_alpha=1.0,
    )
    loop.train_and_evaluate(config, tmp_path)
    rows = [r for r in runtime.read_metrics(tmp_path) if r["split"] == "train"]
    assert pictures
    assert set(pictures) == {jnp.dtype(jnp.float32)}
    assert labels
    assert all(labels)
    assert all(np.isfinite(r["loss"]) and r["cross_entropy"] > 0 for r in rows)


def test_a_wrong_value_ends_the_run_before_it_claims_its_folder(tmp_path):
    with pytest.raises(config_lib.ConfigError, match=r"config\.mixing\.switch"):
        loop.train_and_evaluate(tiny.config(mixing__switch=2.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()
