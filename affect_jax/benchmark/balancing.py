"""Reliability balancing with wrong labels: a problem small enough for many seeds.

`python -m affect_jax.benchmark.balancing [--seeds 5] [--noise 0.2]` trains a small MLP on 3,000
points of 8 classes. A class has four clusters in 64 dimensions, and a fraction of the labels is
wrong. It prints a Markdown table of the scores on 4,000 points with correct labels. Seeds are
paired: every row sees the same points in the same order. It takes a few minutes on 2 CPU cores.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from affect_jax.losses import reliability as losses
from affect_jax.losses import supervised
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.models.layers import Layers
from affect_jax.models.reliability import Reliability
from affect_jax.models.state import current_stats, take_apart

CLASSES, CLUSTERS, INPUTS, FEATURES = 8, 4, 64, 128
TRAIN, TEST, BATCH, STEPS = 3000, 4000, 64, 900

# Row -> (settings of the part, weights of anchor and centre loss).
ROWS: dict[str, tuple[Mapping[str, Any] | None, tuple[float, float]]] = {
    "none": (None, (0, 0)),
    "K = 0": ({"anchors": 0}, (0, 0)),
    "K = 1": ({"anchors": 1}, (0.1, 1)),
    "K = 10": ({}, (0.1, 1)),
    "K = 10, weak centre loss": ({}, (0.1, 0.1)),
    "K = 10, no anchor losses": ({}, (0, 0)),
    "K = 10, geometric": ({"correction": "geometric"}, (0.1, 1)),
    "K = 10, detached": ({"detach_confidence": True}, (0.1, 1)),
    "K = 10, trust": ({"correction": "trust", "ramp_steps": STEPS}, (0.1, 1)),
    "K = 10, off": ({"correction": "off"}, (0.1, 1)),
}
COLUMNS = ("accuracy", "nll", "ece", "accuracy of l", "accuracy of t", "C(l)", "C(t)")


class MLP(nnx.Module):
    """Two hidden layers, whose output is the embedding, and a linear classifier."""

    def __init__(self, reliability: Mapping[str, Any] | None, seed: int):
        make = Layers(nnx.Rngs(seed))
        self.layers = nnx.List([make.linear(INPUTS, FEATURES), make.linear(FEATURES, FEATURES)])
        self.norms = nnx.List([make.norm(FEATURES), make.norm(FEATURES)])
        self.head = make.linear(FEATURES, CLASSES)
        self.reliability = Reliability.of(reliability, FEATURES, CLASSES, make)

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return outputs for points [B, INPUTS], as every classifier does."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        outputs = {"embedding": x, "logits": self.head(x)}
        return self.reliability(outputs) if self.reliability else outputs


def points(seed: int, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw points [count, INPUTS] and labels [count], a fraction `noise` wrong."""
    centres = np.random.default_rng(7).normal(0, 0.5, (CLASSES, CLUSTERS, INPUTS))
    rng = np.random.default_rng([seed, count])
    labels, clusters = rng.integers(0, CLASSES, count), rng.integers(0, CLUSTERS, count)
    x = centres[labels, clusters] + rng.normal(size=(count, INPUTS))
    wrong = (labels + rng.integers(1, CLASSES, count)) % CLASSES
    labels = np.where(rng.random(count) < noise, wrong, labels)
    return x.astype(np.float32), labels.astype(np.int32)


def measure(
    settings: Mapping[str, Any] | None,
    weights: tuple[float, float],
    seeds: Sequence[int],
    noise: float,
) -> list[dict[str, float]]:
    """Train and test a row's settings with each seed; return column -> value."""
    model = MLP(settings, 0)
    model.train()
    training = take_apart(model)[0]
    model.eval()
    evaluation = take_apart(model)[0]
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))

    def loss_of(params, stats, x, labels):
        net = training.build(params, stats)
        outputs = net(x)
        loss = supervised.softmax_cross_entropy(outputs["logits"], labels, label_smoothing=0.11)
        if "anchors" in outputs:
            loss += weights[0] * losses.anchor_loss(outputs["anchors"])
            loss += weights[1] * losses.center_loss(outputs["anchor_distances"], labels, FEATURES)
        return loss, current_stats(net)

    @jax.jit
    def train(params, stats, x, labels, key):
        def step(carry, key):
            params, stats, opt = carry
            rows = jax.random.randint(key, (BATCH,), 0, TRAIN)
            gradient, stats = jax.grad(loss_of, has_aux=True)(params, stats, x[rows], labels[rows])
            updates, opt = optimizer.update(gradient, opt)
            return (optax.apply_updates(params, updates), stats, opt), None

        start = (params, stats, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, STEPS))[0][:2]

    evaluate = jax.jit(lambda params, stats, x: evaluation.build(params, stats)(x))
    found = []
    for seed in seeds:
        fresh, key = take_apart(MLP(settings, seed))[1:], jax.random.key(seed)
        trained = train(*fresh, *points(seed, TRAIN, noise), key)
        x, labels = points(seed, TEST, 0.0)
        found.append(_scores(jax.device_get(evaluate(*trained, x)), labels))
    return found


def _scores(outputs: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    scores = ClassificationStatistics(CLASSES).update(outputs["logits"], labels).compute()
    found = {name: scores[name] for name in ("accuracy", "nll", "ece")}
    for letter, name in (("l", "primary"), ("t", "corrected")):
        if name in outputs:
            found[f"accuracy of {letter}"] = float(np.mean(outputs[name].argmax(1) == labels))
            found[f"C({letter})"] = float(np.mean(outputs[f"confidence_{name}"]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m affect_jax.benchmark.balancing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds per row")
    parser.add_argument("--noise", type=float, default=0.2, help="fraction of wrong labels")
    options = parser.parse_args(arguments)
    print("| |", " | ".join(COLUMNS), "| accuracy - none |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    reference = None
    for row, (settings, weights) in ROWS.items():
        found = measure(settings, weights, range(options.seeds), options.noise)
        accuracy = np.array([f["accuracy"] for f in found])
        reference = accuracy if reference is None else reference
        cells = [_cell([f[c] for f in found if c in f]) for c in COLUMNS]
        print(f"| {row} |", " | ".join([*cells, _cell(accuracy - reference)]), "|", flush=True)
    return 0


def _cell(values: Sequence[float]) -> str:
    if not len(values):
        return ""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
