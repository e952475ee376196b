"""Flags of XLA's CPU compiler under which the networks here are fastest.

They stay in the environment, because JAX reads it for every key of its cache of compiled programs.
Another release of XLA ends the process at a flag that it does not know: `without` and `hidden` keep
them from programs and libraries that bring one, such as TensorFlow.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping

import jax
import jaxlib
from jax._src import xla_bridge

_NAME = "--xla_cpu_experimental_ynn_fusion_type"
# XLA's YNN kernels are the faster ones for matrix products. Its convolutions are slower than the
# older kernels, most of all where a mean follows: ResNet-18 predicts 2.5 times faster without them.
# Its sums are faster in training (ResNet-18 by 25 %, EmoFAN by 15 %), but take a convolution and
# the mean after it together: one image takes ResNet-18 twice as long.
# Convolutions in float64, which only tests use, are 17 times slower without them.
_TRAINING = f"{_NAME}=-individual_convolution"
_PREDICTION = f"{_NAME}=-reduce,-individual_convolution"
_FLAGS = (_TRAINING, _PREDICTION)
# A flag that XLA does not know ends the process, so other releases are left alone.
_RELEASES = ("0.10.",)
_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_ROCM = ("jax_rocm60_plugin", "jax_rocm7_plugin")
_PLUGINS = (*_CUDA, *_ROCM, "libtpu")


def choose(*, training: bool = False) -> None:
    """Add the flags to XLA_FLAGS where JAX will compute on the CPU.

    XLA reads them when it starts: call this before the first array is made. It does nothing once
    JAX has started, where XLA_FLAGS has the flag already, for other releases of jaxlib, and where
    JAX can use a GPU or TPU (a plugin is installed, and JAX_PLATFORMS does not say "cpu").

    Args:
      training: this process trains.
    """
    given = os.environ.get("XLA_FLAGS", "")
    known = jaxlib.version.__version__.startswith(_RELEASES)
    started = xla_bridge.backends_are_initialized()
    if known and _NAME not in given and not started and _on_cpu():
        os.environ["XLA_FLAGS"] = f"{given} {_TRAINING if training else _PREDICTION}".strip()


def without(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `choose` adds, for a process with another XLA."""
    kept = [flag for flag in environ.get("XLA_FLAGS", "").split() if flag not in _FLAGS]
    rest = {name: value for name, value in environ.items() if name != "XLA_FLAGS"}
    return rest | ({"XLA_FLAGS": " ".join(kept)} if kept else {})


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Hide what `choose` adds while another XLA works in this process."""
    given = os.environ.get("XLA_FLAGS")
    if given is None:
        yield
        return
    os.environ["XLA_FLAGS"] = without(os.environ).get("XLA_FLAGS", "")
    try:
        yield
    finally:
        os.environ["XLA_FLAGS"] = given


def _on_cpu() -> bool:
    """Return whether JAX will compute on the CPU for sure."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]  # set by JAX's import
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(name) for name in _PLUGINS)
