"""What balancing does to predictions, counted over a data set."""

import numpy as np

from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.reliability import ReliabilityStatistics
from affect_jax.models.reliability import confidence


def predictions(rows=40, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    primary, corrected, final = rng.dirichlet(np.ones(classes), (3, rows))
    outputs = {
        "primary": primary,
        "corrected": corrected,
        "logits": np.log(final),
        "nearest_anchor": rng.integers(0, 4, rows),
    }
    labels = rng.integers(-1, classes, rows)
    return outputs, {"expression": labels, "mask": rng.random(rows) < 0.8}


def make():
    return ReliabilityStatistics(3, 2)


def test_figures():
    outputs, batch = predictions()
    got = make().update(outputs, batch).compute()
    keep, labels = batch["mask"], batch["expression"]
    before, after = outputs["primary"].argmax(1), outputs["logits"].argmax(1)
    known = keep & (labels >= 0)
    assert got["correction_changed"] == np.mean((before != after)[keep])
    assert got["correction_better"] == np.mean(((before != labels) & (after == labels))[known])
    assert got["correction_worse"] == np.mean(((before == labels) & (after != labels))[known])
    assert got["anchors_never_win"] == 2 / 6
    plain = ClassificationStatistics(3).update(np.log(outputs["primary"]), labels, keep).compute()
    for name in ("accuracy", "ece", "nll", "f1_macro"):
        assert got[f"{name}_primary"] == plain[name]
    final = ClassificationStatistics(3).update(outputs["logits"], labels, keep).compute()
    gain = got["correction_better"] - got["correction_worse"]
    np.testing.assert_allclose(final["accuracy"] - got["accuracy_primary"], gain, atol=1e-12)
    assert got["accuracy_corrected"] == np.mean((outputs["corrected"].argmax(1) == labels)[known])
    for name in ("primary", "corrected"):
        expected = confidence(np.log(outputs[name][keep])).mean()
        np.testing.assert_allclose(got[f"confidence_{name}"], expected, rtol=1e-5)
    np.testing.assert_allclose(got["spread_primary"], outputs["primary"][keep].std(), atol=1e-12)


def test_parts_join_to_the_whole_and_travel_as_vectors():
    outputs, batch = predictions()
    whole = make().update(outputs, batch).compute()
    parts = []
    for rows in (slice(0, 7), slice(7, 40)):
        cut = [{k: v[rows] for k, v in d.items()} for d in (outputs, batch)]
        parts.append(make().load_state(make().update(*cut).state()))
    joined = parts[0].merge(parts[1]).compute()
    assert joined.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(joined[name], value, rtol=1e-12, err_msg=name)


def test_in_a_metric_set_and_without_balancing():
    outputs, batch = predictions()
    metrics = MetricSet({"expression"}, 3, extra=[make()]).update(outputs, batch).compute()
    assert {"accuracy", "accuracy_primary", "anchors_never_win"} <= metrics.keys()
    assert make().update({"logits": outputs["logits"]}, batch).compute() == {}
    assert make().compute() == {}
