"""Devices that are not here."""

import importlib.util

import pytest

from affect_jax.benchmark import targets
from affect_jax.errors import UserError
from affect_jax.models import attention
from affect_jax.runtime.platforms import Platform, compiling_for


def test_an_unknown_device_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"'h20': .*h200"):
        targets.find("h20")


@pytest.mark.parametrize(("name", "packages"), [("h200", "cuda12"), ("v5e", "tpu")])
def test_a_missing_plug_in_is_named(name, packages, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"pip install -U .jax\[{packages}\]"):
        targets.find(name)


def test_the_compiler_is_told_of_the_gpu():
    lines = targets.description(targets.GPUS["h200"]).splitlines()
    assert "  cuda_compute_capability { major: 9 minor: 0 }" in lines
    assert "  l2_cache_size: 52428800" in lines
    assert "  memory_bandwidth: 4800000000000" in lines


def test_programs_are_made_for_the_absent_device():
    assert not attention.serves_cudnn("bfloat16", 64)
    with compiling_for(Platform("gpu", "9.0")):
        assert attention.serves_cudnn("bfloat16", 64)
    with compiling_for(Platform("gpu", "7.5")):
        assert not attention.serves_cudnn("bfloat16", 64)
    assert not attention.serves_cudnn("bfloat16", 64)
