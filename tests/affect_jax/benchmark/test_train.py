"""The training benchmark: what counts as work, and the rows of a small run."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import cases, drive, flops, train
from tests.affect_jax import small_systems


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


def test_work_before_all_that_trains_is_told_apart():
    """Frozen x @ a @ a, then the scan with a trained kernel, then a head with a frozen one."""
    a = jnp.ones((4, 4))

    def network(trained, frozen, x):
        x = jax.jit(jnp.matmul)(x, frozen)
        x = jax.lax.scan(lambda c, _: (c @ frozen, None), x, length=2)[0]
        x = jax.lax.scan(lambda c, _: (c @ (c + trained), None), x, length=5)[0]
        return jax.checkpoint(jnp.matmul)(x, frozen)

    found = flops.count_dependent(network, a, a, a)
    assert found == (9 * 2 * 4**3, 6 * 2 * 4**3, [True])


def test_a_frozen_trunk_is_counted_once():
    config, trunk = small_systems.config("emofan"), small_systems.config("fan")
    every = train.step_flops(config)
    assert every == train.PASSES * train.operations(config).all
    config.model.train_trunk = False
    frozen = train.step_flops(config)
    assert frozen == every - 2 * train.operations(trunk).all
    config.optimizer.sam_rho = 0.05
    assert train.step_flops(config) == 2 * frozen


def test_matrix_products_go_by_the_clock(monkeypatch):
    monkeypatch.setitem(train.CLOCKS, "cpu", iter(range(100)).__next__)  # a second a look
    assert train.matmul(jnp.float32, 1000, "cpu")() == 20 * 2 * 1000**3


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
    assert train.operations(train.settings(options)).all / 1e9 == pytest.approx(gflops, rel=0.03)


def train_options(arguments):
    found = {}

    def keep(options):
        found["options"] = options
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "measure", keep)
        train.main(arguments)
    return found["options"]


def small_plan(tmp_path):
    case = {
        "case": "vit_b16", "name": "small", "model": "vit_ti16", "peer": "vit_ti16",
        "batch_size": 8, "image_size": 32, "dtype": "float32", "settings": {"model.depth": 1},
    }  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"cases": [case], "steps": 1, "repeats": 2, "matmul_size": 64}))
    return ["train", "--plan", str(path), "--json", str(tmp_path / "rows.json")]


def test_a_small_run(tmp_path, capsys):
    assert command.main(small_plan(tmp_path)) == 0
    rows = {row["metric"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert rows.keys() >= {
        "images_per_second", "model_flops_utilisation", "matmul_float32", "init_seconds, ours"
    }  # fmt: skip
    assert all(row["value"] > 0 for row in rows.values())
    assert "small: vit_ti16 32 px, float32, 8" in capsys.readouterr().out


def results():
    ours, eager = ("emofan", "ours"), ("emofan", "eager")
    built = {"label": "emofan: x", "gflops": 2.0, "devices": 2, "dtype": "bfloat16", "seconds": 9.0,
             "batch_size": 32}  # fmt: skip
    matmul = "matrix products, bfloat16", "ours"
    return drive.Results(
        figures={ours: [90.0, 110.0, 100.0], eager: [25.0, 50.0], matmul: [1e12]},
        built={
            ours: built,
            eager: {"seconds": 3.0, "memory_gb": 4.5},
            matmul: {"label": "H200 x 2", "metric": "matmul_bfloat16"},
        },
        about={"eager": {"version": "2.11"}},
        profiles={
            "emofan": {
                "idle_share": 0.4, "busy_ms": 240.0, "kernels": 7, "kernel_ms": 3.0,
                "kinds": {"copy": {"ms": 1.0, "kernels": 2}},
            }
        },
    )  # fmt: skip


def test_rows_of_both_sides():
    case = cases.KNOWN["emofan"]
    rows = train.rows([case, cases.KNOWN["arbex"]], results())
    found = {(row["case"], row["metric"]): row for row in rows}
    ours = found["emofan: x", "images_per_second"]
    assert (ours["value"], ours["ratio"], ours["n"]) == (100, 100 / 37.5, 3)
    assert ours["baseline"] == "emonet, torch 2.11, eager"
    assert found["emofan: emonet, torch 2.11, eager", "images_per_second"]["value"] == 37.5
    # 100 images of 2 GFLOP on two devices of 1 TFLOP/s
    assert found["emofan: x", "model_flops_utilisation"]["value"] == pytest.approx(0.1)
    assert found["emofan: x", "build_seconds, ours"]["value"] == 9
    assert found["emofan: x", "memory_gb, eager"]["value"] == 4.5
    # A step takes 320 ms.
    assert found["emofan: x", "idle_share"]["value"] == pytest.approx(0.25)
    assert found["emofan: x", "idle_share_profiled"]["value"] == 0.4
    assert found["emofan: x", "kernel_time: copy"]["value"] == 1
    assert found["H200 x 2", "matmul_bfloat16"]["value"] == 1
    assert not any(name.startswith("arbex") for name, _ in found)


def test_a_peer_that_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert command.main(["train", "--system", "vit_se_synthetic", "--peer"]) == 2
    assert "pip install timm torch" in capsys.readouterr().err


def test_unknown_names(capsys):
    for arguments, message in (
        (["--system", "vit_se_fer2014"], "vit_se_fer2013"),
        (["--system", "fan_synthetic", "--peer"], "comparable with fan_synthetic"),
        (["--cases", "emofan", "--peer", "eeger"], "eager, compile"),
        (["--cases", "emofan", "--profile", "arbex"], "emofan"),
    ):
        assert command.main(["train", *arguments]) == 2
        assert message in capsys.readouterr().err
