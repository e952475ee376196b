"""The PyTorch peers: what can be made, frozen and measured. Outputs: tests/golden."""

import sys

import numpy as np
import pytest

from affect_jax.benchmark import peer
from affect_jax.benchmark.cases import Case, classes_of, config_of
from affect_jax.errors import UserError
from affect_jax.losses import supervised

torch = pytest.importorskip("torch")
measure = pytest.importorskip("affect_jax.benchmark.peer.measure")

TINY = {"width": 16, "depth": 1, "blocks": 2}


def test_what_cannot_be_made(monkeypatch):
    with pytest.raises(UserError, match="emonet"):
        peer.create("emonets")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm torch"):
        peer.create("resnet18")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install timm torch"):
        peer.version()


def test_a_frozen_trunk_keeps_weights_and_statistics():
    model = peer.create("emonet", classes=3, **TINY)
    peer.freeze(model, ("trunk",))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs = model(torch.randn(2, 3, 32, 32))
    assert outputs["expression"].shape == (2, 3) and outputs["valence"].shape == (2,)
    outputs["expression"].sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith(model.HEAD) for name in trained)
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed and all(name.startswith(model.HEAD) for name in changed)
    with pytest.raises(UserError, match="trunk"):
        peer.freeze(model, ("landmark_net",))


def test_the_objective_is_ours():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
    guess, truth = rng.normal(size=(2, 6)), rng.uniform(-1, 1, (6, 2))
    outputs = {
        "expression": torch.tensor(logits),
        "valence": torch.tensor(guess[0]),
        "arousal": torch.tensor(guess[1]),
    }
    torch.manual_seed(0)
    found = measure.objective(outputs, torch.tensor(labels), torch.tensor(truth))
    torch.manual_seed(0)
    weights = torch.rand(3).numpy()
    entropy = supervised.softmax_cross_entropy(logits, labels)
    terms = np.zeros(3)
    for x, y in zip(guess, truth.T, strict=True):
        covariance = np.mean((x - x.mean()) * (y - y.mean()))
        ccc = 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        terms += [np.mean((x - y) ** 2), 1 - covariance / (x.std() * y.std()), 1 - ccc]
    expected = float(entropy) + weights @ terms / weights.sum()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(measure.objective(outputs["expression"], torch.tensor(labels), None)) == (
        pytest.approx(float(entropy), rel=1e-5)
    )


def test_a_training_step_and_a_prediction():
    case = Case(
        "a", "base", batch_size=8, image_size=32, dtype="bfloat16", peer="emonet",
        peer_arguments=TINY, freeze=("trunk",),
    )  # fmt: skip
    assert measure.training(case, "eager", 1)() > 0
    engine = measure.engine(case, "eager")
    outputs = engine.predict(engine.place(np.zeros((8, 32, 32, 3), np.uint8)))
    engine.wait(outputs)
    classes = len(classes_of(config_of(case)))
    assert outputs["expression"].shape == (8, classes)
    assert outputs["valence"].shape == outputs["arousal"].shape == (8,)
