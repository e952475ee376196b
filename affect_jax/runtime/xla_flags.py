"""Flags of XLA's CPU compiler under which the networks here are fastest."""

import os

import jaxlib
from jax._src import xla_bridge

_NAME = "--xla_cpu_experimental_ynn_fusion_type"
# XLA's YNN kernels are the faster ones for matrix products. Its convolutions are slower than the
# older kernels, most of all where a mean follows: ResNet-18 is 2.5 times faster without them.
# Convolutions in float64, which only tests use, are 17 times slower without them.
_VALUE = "-reduce,-individual_convolution"
# A flag that XLA does not know ends the process, so other releases are left alone.
_RELEASES = ("0.10.",)


def choose() -> None:
    """Add the flags to XLA_FLAGS, which has an effect on CPU alone.

    XLA reads them when it starts: call this before the first array is made. It does nothing once
    JAX has started, where XLA_FLAGS has the flag already, and for other releases of jaxlib.
    """
    given = os.environ.get("XLA_FLAGS", "")
    known = jaxlib.version.__version__.startswith(_RELEASES)
    if known and _NAME not in given and not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{given} {_NAME}={_VALUE}".strip()
