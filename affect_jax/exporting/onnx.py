"""The format "onnx": a graph for ONNX Runtime, with weights and normalisation inside.

The nodes are made of the jaxpr of the model by this project (`onnx_primitives`). The computation is
in float32, also for a model that computes in 16 bits.
"""

import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jax import export

from affect_jax.errors import UserError
from affect_jax.exporting.onnx_graph import IR_VERSION, OPSET, Graph, Value
from affect_jax.exporting.onnx_primitives import emit
from affect_jax.exporting.program import BATCH, Outputs, Program

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime")
_LARGEST = 2**31 - 1  # bytes of a protocol buffer
_NEEDED = 'onnx and onnxruntime are needed: pip install -e ".[onnx]"'


def write(program: Program, path: pathlib.Path) -> None:
    """Write the graph to a file.

    Raises:
      UserError: the package onnx is not installed, or the model is too large.
      NotImplementedError: the model uses a primitive of JAX that has no rule.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise UserError(_NEEDED) from error
    (batch,) = export.symbolic_shape(BATCH)
    spec = program.spec(batch)
    closed = jax.make_jaxpr(program.function("float32"))(spec)
    graph = Graph(batch, program.input_name, spec.shape, spec.dtype)
    results = emit(graph, closed, [graph.input])
    # JAX sorts the names of a dict.
    outputs = []
    for name, result, aval in zip(sorted(program.outputs), results, closed.out_avals, strict=True):
        whole = graph.full(result, aval.shape)
        graph.nodes.append(helper.make_node("Identity", [graph.name_of(whole)], [name]))
        outputs.append(Value(name, aval.shape, np.dtype(aval.dtype)))
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            program.loaded.name,
            [_described(graph.input)],
            [_described(value) for value in outputs],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="affect_jax",
    )
    helper.set_model_props(
        made, {"class_names": json.dumps(program.loaded.class_names, ensure_ascii=False)}
    )
    if made.ByteSize() > _LARGEST:
        raise UserError(
            f"the model has {made.ByteSize():,} bytes, a file of ONNX at most {_LARGEST:,}; use "
            "another format"
        )
    onnx.checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString())


def read(path: pathlib.Path) -> Callable[[np.ndarray], Outputs]:
    """Return the function in a file, as users of the format run it.

    Raises:
      UserError: the package onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(_NEEDED) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {given.name: batch}), strict=True))


def _described(value: Value):
    from onnx import helper

    shape = [n if isinstance(n, int) else str(n) for n in value.shape]
    return helper.make_tensor_value_info(
        value.name, helper.np_dtype_to_tensor_dtype(value.dtype), shape
    )
