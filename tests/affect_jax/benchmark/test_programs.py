"""Steps lowered for platforms that are not here, with their collectives."""

import jax
import pytest
from jax import export

from affect_jax.benchmark.programs import SYSTEMS, Programs, full_size
from affect_jax.errors import UserError
from affect_jax.models.layer_depth import layer_numbers
from affect_jax.runtime.parallel import AbsentDevices
from tests.affect_jax import small_systems
from tests.affect_jax.narrow_sums import narrow_sums

PLATFORMS = ("tpu", "cuda", "cpu")


def lowered(program) -> str:
    """Lower a program for all platforms at once; return its text."""
    exported = export.export(program.function, platforms=PLATFORMS)(*program.arguments)
    assert exported.platforms == PLATFORMS
    assert exported.nr_devices == 8
    text = exported.mlir_module()
    assert "callback" not in text
    assert "f64" not in text
    return text


@pytest.mark.slow  # tests/affect_jax/models/test_models.py has the networks alone, small
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_step_sums_in_bfloat16(name):
    program = Programs(full_size(name), AbsentDevices(2)).train(16)
    assert narrow_sums(jax.make_jaxpr(program.function)(*program.arguments).jaxpr) == []


def check(config, batch_size: int) -> None:
    programs = Programs(config, AbsentDevices(8))
    train = lowered(programs.train(batch_size))
    # `collectives` counts those that are left after compiling; here each is still alone.
    assert "stablehlo.all_reduce" in train
    assert "stablehlo.all_reduce" not in lowered(programs.evaluation(batch_size))


def test_a_small_step_for_every_platform():
    check(small_systems.config("vit_se"), 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_steps_at_full_size_for_every_platform(name):
    config = full_size(name)
    assert config.model.dtype == "bfloat16"
    check(config, 64)


def test_layers_are_numbered_as_in_a_real_model():
    programs = Programs(small_systems.config("vit_se"), AbsentDevices(jax.devices()[:1]))
    real = programs._create()
    assert layer_numbers(programs._model) == layer_numbers(real)
    assert layer_numbers(real)["cls_token"] == 0


def test_an_unknown_system_is_named():
    with pytest.raises(UserError, match="no system 'vit'; did you mean"):
        full_size("vit")
