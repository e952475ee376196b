"""Flags of XLA's CPU compiler under which the networks here are fastest."""

import importlib.util
import os

import jax
import jaxlib
from jax._src import xla_bridge

_NAME = "--xla_cpu_experimental_ynn_fusion_type"
# XLA's YNN kernels are the faster ones for matrix products. Its convolutions are slower than the
# older kernels, most of all where a mean follows: ResNet-18 is 2.5 times faster without them.
# Convolutions in float64, which only tests use, are 17 times slower without them.
_VALUE = "-reduce,-individual_convolution"
# A flag that XLA does not know ends the process, so other releases are left alone.
_RELEASES = ("0.10.",)
_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_ROCM = ("jax_rocm60_plugin", "jax_rocm7_plugin")
_PLUGINS = (*_CUDA, *_ROCM, "libtpu")


def choose() -> None:
    """Add the flags to XLA_FLAGS where JAX will compute on the CPU.

    XLA reads them when it starts: call this before the first array is made. It does nothing once
    JAX has started, where XLA_FLAGS has the flag already, for other releases of jaxlib, and where
    JAX can use a GPU or TPU (a plugin is installed, and JAX_PLATFORMS does not say "cpu").
    """
    given = os.environ.get("XLA_FLAGS", "")
    known = jaxlib.version.__version__.startswith(_RELEASES)
    started = xla_bridge.backends_are_initialized()
    if known and _NAME not in given and not started and _on_cpu():
        os.environ["XLA_FLAGS"] = f"{given} {_NAME}={_VALUE}".strip()


def _on_cpu() -> bool:
    """Return whether JAX will compute on the CPU for sure."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]  # set by JAX's import
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(name) for name in _PLUGINS)
