"""The format "orbax": parameters and statistics, as every model directory has them.

import orbax.checkpoint as ocp

arrays = ocp.StandardCheckpointer().restore("/absolute/path/of/MODEL/params")
kernel = arrays["params"]["stem_conv/kernel"]
"""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from affect_jax.exporting.program import Program
from affect_jax.weights.model_dir import ARRAYS_FOLDER, Arrays, arrays_of

FILE = ARRAYS_FOLDER
PACKAGES = ("orbax-checkpoint",)


def write(program: Program, path: pathlib.Path) -> None:
    """Write the arrays to a folder, which a model directory has already."""
    if not path.is_dir():
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, jax.tree.map(np.asarray, arrays_of(program.loaded.model)))


def read(path: pathlib.Path) -> Arrays:
    """Return the arrays in a folder, as users of the format read them."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path)
