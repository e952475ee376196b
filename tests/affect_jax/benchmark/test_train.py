"""The training benchmark: what counts as work, and the rows of a small run."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import flops, peer, train
from affect_jax.errors import UserError


def test_products_and_convolutions_count_and_sums_do_not():
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert flops.count(lambda a, b: jnp.tanh(a @ b) + 1, a, b) == 2 * 3 * 4 * 5 * 6
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 6))

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=2
        )

    assert flops.count(convolve, x, kernel) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 2)


def test_work_inside_of_transformations_counts():
    a = jnp.ones((4, 4))

    def repeated(a):
        inner = jax.jit(jax.checkpoint(lambda c: c @ a))
        return jax.lax.scan(lambda c, _: (inner(c), None), a, length=5)[0]

    assert flops.count(repeated, a) == 5 * 2 * 4**3


@pytest.mark.parametrize(
    ("system", "model", "gflops"),
    [
        ("vit_se_fer2013", "", 35.1),
        ("vit_se_fer2013", "vit_ti16", 2.5),
        ("resnet50_faces", "", 8.2),
    ],
)
def test_the_networks_cost_what_is_published(system, model, gflops):
    arguments = ["--system", system, "--model", model, "--image_size", "224"]
    options = train_options(arguments)
    assert train.forward_flops(train.settings(options)) / 1e9 == pytest.approx(gflops, rel=0.03)


def train_options(arguments):
    found = {}

    def keep(options):
        found["options"] = options
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "measure", keep)
        train.main(arguments)
    return found["options"]


def test_a_small_run(tmp_path, capsys, monkeypatch):
    full = train.settings

    def one_block(options):
        config = full(options)
        config.model.depth = 1
        return config

    monkeypatch.setattr(train, "settings", one_block)
    arguments = ["train", "--system", "vit_se_synthetic", "--batch_size", "8", "--image_size", "32"]
    small = ["--steps", "1", "--repeats", "2", "--matmul_size", "64"]
    assert command.main([*arguments, *small, "--json", str(tmp_path / "rows.json")]) == 0
    rows = {row["metric"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert rows.keys() >= {"images_per_second", "model_flops_utilisation", "matmul_float32"}
    assert all(row["value"] > 0 for row in rows.values())
    assert "vit_ti16 32 px, float32, 8" in capsys.readouterr().out


def test_a_peer_that_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert command.main(["train", "--system", "vit_se_synthetic", "--peer"]) == 2
    assert "pip install timm torch" in capsys.readouterr().err


def test_unknown_names(monkeypatch, capsys):
    assert command.main(["train", "--system", "vit_se_fer2014"]) == 2
    assert "vit_se_fer2013" in capsys.readouterr().err
    monkeypatch.setattr(peer, "_modules", lambda: (None, None))
    with pytest.raises(UserError, match="no equivalent of emofan"):
        peer.training("emofan", image_size=8, batch_size=1, classes=2, low_precision=False, steps=1)
