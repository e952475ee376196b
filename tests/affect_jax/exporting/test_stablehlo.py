"""Programs of `jax.export`: for three platforms, any batch, and without this package."""

import re
import subprocess
import sys

import numpy as np
import pytest
from jax import export

from affect_jax.exporting import stablehlo
from affect_jax.exporting.program import Program
from tests.affect_jax import tiny_models

# The lines in docs/export.md.
ALONE = """
import sys
import jax, jax.export
import numpy as np

program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
for size in (1, 5):
    batch = np.load(sys.argv[2])[:size]
    outputs = program.call(batch)
    np.savez(f"{sys.argv[3]}{size}.npz", **outputs)
assert not [name for name in sys.modules if name.startswith(("affect_jax", "flax", "orbax"))]
"""

# Compiled in test_same_answer.py: emofan, vit_se, rald. The others are compiled only when slow.
HEAVY = ("fan", "arbex", "poster", "resnet")


@pytest.mark.parametrize("system", ["arbex", "fan"])
def test_every_system_is_lowered_for_every_platform(system, tmp_path):
    program = Program.of(tiny_models.loaded(system), landmarks=system == "fan")
    stablehlo.write(program, tmp_path / stablehlo.FILE)
    found = export.deserialize(bytearray((tmp_path / stablehlo.FILE).read_bytes()))
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert [str(n) for n in found.in_avals[0].shape] == ["batch", "32", "32", "3"]
    assert found.in_avals[0].dtype == np.uint8
    names = sorted(program.outputs)
    assert found.out_tree.unflatten(range(len(names))) == dict(
        zip(names, range(len(names)), strict=True)
    )
    # No kernels of one platform, only the check that a batch has an example.
    assert set(re.findall(r"custom_call @(\w+)", found.mlir_module())) == {"shape_assertion"}


@pytest.mark.slow
@pytest.mark.parametrize("system", HEAVY)
def test_heavy_systems_give_the_live_outputs(system, tmp_path):
    program = Program.of(tiny_models.loaded(system))
    stablehlo.write(program, tmp_path / stablehlo.FILE)
    batch = tiny_models.batch(system, 3)
    found, wanted = stablehlo.read(tmp_path / stablehlo.FILE)(batch), program.live(batch)
    for name, value in wanted.items():
        atol = 1e-5 * max(1, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def test_jax_alone_runs_a_program(tmp_path):
    program = Program.of(tiny_models.loaded("features"))
    stablehlo.write(program, tmp_path / stablehlo.FILE)
    batch = tiny_models.batch("features", 5)
    np.save(tmp_path / "batch.npy", batch)
    files = (tmp_path / stablehlo.FILE, tmp_path / "batch.npy", tmp_path / "out")
    subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, files)], cwd=tmp_path, check=True, timeout=300
    )
    wanted = program.live(batch)
    for size in (1, 5):
        with np.load(tmp_path / f"out{size}.npz") as found:
            assert set(found.files) == set(program.outputs)
            for name, value in wanted.items():
                np.testing.assert_allclose(found[name], value[:size], rtol=0, atol=1e-5)
