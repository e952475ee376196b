"""The format "stablehlo": a program of `jax.export`, run by JAX alone.

    program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    outputs = program.call(images)  # uint8 [B, S, S, 3] RGB, any B

It is lowered for CPU, NVIDIA GPU and TPU, and holds weights and normalisation.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jax import export

from affect_jax.exporting.program import BATCH, Outputs, Program

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
PACKAGES = ("jax", "jaxlib")


def write(program: Program, path: pathlib.Path) -> None:
    """Write the program to a file."""
    (batch,) = export.symbolic_shape(BATCH)
    lowered = export.export(jax.jit(program.function()), platforms=PLATFORMS)(program.spec(batch))
    path.write_bytes(lowered.serialize())


def read(path: pathlib.Path) -> Callable[[np.ndarray], Outputs]:
    """Return the function in a file, as users of the format run it."""
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda batch: jax.device_get(call(batch))
