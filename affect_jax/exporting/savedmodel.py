"""The format "savedmodel": for TensorFlow and TF Serving, with weights and normalisation inside.

It lies in a folder of its version, as TF Serving expects. TensorFlow is needed to write it, and
imported here only. It has an XLA of its own, which must not see the flags of JAX's.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np

from affect_jax.errors import UserError
from affect_jax.exporting.program import BATCH, Outputs, Program
from affect_jax.exporting.stablehlo import PLATFORMS
from affect_jax.runtime import xla_flags

FILE = "savedmodel"
PACKAGES = ("orbax-export", "tensorflow", "tensorflow-cpu")
VERSION = "1"  # which TF Serving reads off the folder
SIGNATURE = "serving_default"
_NEEDED = 'TensorFlow and orbax-export are needed: pip install -e ".[savedmodel]"'


@xla_flags.hidden()
def write(program: Program, path: pathlib.Path) -> None:
    """Write the program to a folder.

    Raises:
      UserError: TensorFlow or orbax-export is not installed.
    """
    try:
        import tensorflow as tf
        from orbax import export
    except ImportError as error:
        raise UserError(_NEEDED) from error
    run, arrays = program.parts()
    module = export.JaxModule(
        jax.tree.map(np.asarray, dict(arrays)),
        run,
        trainable=False,
        input_polymorphic_shape=", ".join([BATCH, *map(str, program.input_shape)]),
        jax2tf_kwargs={"native_serialization_platforms": PLATFORMS, "with_gradient": False},
    )
    given = tf.TensorSpec(
        (None, *program.input_shape), program.input_dtype, name=program.input_name
    )
    serving = export.ServingConfig(SIGNATURE, input_signature=[given])
    export.ExportManager(module, [serving]).save(str(path / VERSION))


@xla_flags.hidden()
def read(path: pathlib.Path) -> Callable[[np.ndarray], Outputs]:
    """Return the function in a folder, as users of the format run it.

    Raises:
      UserError: TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(_NEEDED) from error
    model = tf.saved_model.load(str(path / VERSION))
    signature = model.signatures[SIGNATURE]
    ((name, _),) = signature.structured_input_signature[1].items()

    @xla_flags.hidden()
    def call(batch: np.ndarray) -> Outputs:
        return {
            key: value.numpy() for key, value in signature(**{name: tf.constant(batch)}).items()
        }

    call.model = model  # type: ignore[attr-defined]  # its variables live as long as it does
    return call
