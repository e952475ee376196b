"""XLA's flags are added before JAX starts, and never to what the user chose."""

import subprocess
import sys

import jax
import jaxlib
import pytest

from affect_jax.runtime import xla_flags

ADDED = "--xla_cpu_experimental_ynn_fusion_type=-reduce,-individual_convolution"
IN_TRAINING = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
OTHER = "--xla_backend_optimization_level=0"
PROGRAM = f"""
import os
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "{OTHER}"
from affect_jax.runtime import xla_flags
import jax
xla_flags.choose(training=TRAINING)
print(os.environ["XLA_FLAGS"])
print(jax.numpy.ones(3).sum())
os.environ["XLA_FLAGS"] = "{OTHER}"
xla_flags.choose()
print(os.environ["XLA_FLAGS"])
"""


@pytest.mark.skipif(
    not jaxlib.version.__version__.startswith("0.10."), reason="flags of this release of XLA"
)
@pytest.mark.parametrize(("training", "added"), [(False, ADDED), (True, IN_TRAINING)])
def test_flags_are_added_before_jax_starts_and_not_after(training, added):
    program = PROGRAM.replace("TRAINING", str(training))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # XLA ends the process at a flag that it does not know.
    assert done.stdout.splitlines() == [f"{OTHER} {added}", "3.0", OTHER], done.stderr


def test_flags_of_the_user_and_of_other_releases_are_left_alone(monkeypatch):
    monkeypatch.setattr(xla_flags.xla_bridge, "backends_are_initialized", lambda: False)
    chosen = "--xla_cpu_experimental_ynn_fusion_type="
    monkeypatch.setenv("XLA_FLAGS", chosen)
    xla_flags.choose()
    assert xla_flags.os.environ["XLA_FLAGS"] == chosen
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(xla_flags.jaxlib.version, "__version__", "0.99.0")
    xla_flags.choose()
    assert xla_flags.os.environ["XLA_FLAGS"] == ""


def test_another_xla_does_not_see_the_flags(monkeypatch):
    both = {"XLA_FLAGS": f"{OTHER} {ADDED}", "HOME": "/"}
    assert xla_flags.without(both) == {"XLA_FLAGS": OTHER, "HOME": "/"}
    assert xla_flags.without({"XLA_FLAGS": IN_TRAINING}) == xla_flags.without({})
    assert xla_flags.without({"XLA_FLAGS": ADDED}) == xla_flags.without({}) == {}
    chosen = {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}
    assert xla_flags.without(chosen) == chosen
    monkeypatch.setenv("XLA_FLAGS", ADDED)
    with xla_flags.hidden():
        assert xla_flags.os.environ["XLA_FLAGS"] == ""
    assert xla_flags.os.environ["XLA_FLAGS"] == ADDED
    monkeypatch.delenv("XLA_FLAGS")
    with xla_flags.hidden():
        pass
    assert "XLA_FLAGS" not in xla_flags.os.environ


@pytest.mark.parametrize(
    ("platforms", "installed", "added"),
    [
        (None, (), True),
        (None, ("jax_cuda12_plugin",), False),
        (None, ("jax_rocm60_plugin",), False),
        (None, ("libtpu",), False),
        ("cpu", ("jax_cuda13_plugin",), True),
        ("cuda,cpu", (), False),
    ],
)
def test_flags_are_for_the_cpu_alone(monkeypatch, platforms, installed, added):
    monkeypatch.setattr(xla_flags.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(xla_flags.jaxlib.version, "__version__", "0.10.2")
    monkeypatch.setattr(xla_flags.importlib.util, "find_spec", lambda n: n in installed or None)
    monkeypatch.setenv("XLA_FLAGS", OTHER)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        xla_flags.choose()
    finally:
        jax.config.update("jax_platforms", before)
    assert xla_flags.os.environ["XLA_FLAGS"] == (f"{OTHER} {ADDED}" if added else OTHER)
