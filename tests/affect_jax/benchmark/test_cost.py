"""The cost of balancing: what is left out, what is counted."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import cost, train
from configs import arbex_synthetic


@pytest.fixture
def small(monkeypatch):
    """A ViT of one block with balancing instead of the config that is named, and times made up."""
    config = arbex_synthetic.get_config()
    reliability = config.model.reliability
    with config.unlocked():
        config.model = {"name": "vit_ti16", "depth": 1, "dtype": "float32", "mean": (0.5,) * 3}
        config.model.update(std=(0.5,) * 3, reliability=reliability)
        config.num_steps, config.batch_size, config.data.image_size = 10, 8, 32
    monkeypatch.setattr(train, "settings", lambda options: config)
    monkeypatch.setattr(
        train, "training", lambda c, steps: lambda: 80 if c.model.reliability.enabled else 100
    )
    monkeypatch.setattr(train, "matmul", lambda dtype, size: lambda: 2e9)  # FLOP/s
    return config


def test_the_rows(small, tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert command.main(["cost", "--repeats", "2", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    steps = [row for row in rows if row["metric"] == "step"]
    assert [row["value"] for row in steps[:2]] == [80, 100]  # 8 pictures at 100, at 80 a second
    assert steps[2]["case"].endswith("balancing alone") and 0 < steps[2]["value"] < 1000
    assert steps[1]["ratio"] == pytest.approx(0.8) and steps[2]["ratio"] is None
    bare, balanced, added = (row["value"] for row in rows if row["metric"] == "step_operations")
    assert bare < balanced < 2 * bare and added == pytest.approx(balanced - bare)
    measured = {row["metric"]: row["value"] for row in rows}
    assert measured["share_at_most"] > 0 and measured["step_at_matrix_rate"] == 500 * bare
    counts = {row["case"]: row["value"] for row in rows if row["metric"] == "parameters"}
    model = train.system_of(small).create_model(nnx.Rngs(0), None)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert counts.pop("all") == sum(counts.values()) == sum(sizes)
    assert counts["reliability"] > 7 * 10 * 192  # anchors of 192 numbers, ten a class


def test_a_config_without_balancing_is_refused(small, capsys):
    small.model.reliability.enabled = False
    assert cost.main([]) == 2
    assert "no model.reliability" in capsys.readouterr().err
