"""The graphs for ONNX Runtime."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from affect_jax.errors import UserError
from affect_jax.exporting import onnx
from affect_jax.exporting.onnx_graph import Graph
from affect_jax.exporting.onnx_primitives import emit
from affect_jax.exporting.program import Program
from affect_jax.models.landmarks import DECODERS, decode_heatmaps
from tests.affect_jax import tiny_models

package = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def run(function, batch):
    """The results of a function of a batch of any size, in ONNX Runtime."""
    (size,) = export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((size, *batch.shape[1:]), batch.dtype)
    closed = jax.make_jaxpr(function)(spec)
    graph = Graph(size, "x", spec.shape, spec.dtype)
    results = emit(graph, closed, [graph.input])
    names = [f"y{i}" for i in range(len(results))]
    for name, result, aval in zip(names, results, closed.out_avals, strict=True):
        whole = graph.name_of(graph.full(result, aval.shape))
        graph.nodes.append(package.helper.make_node("Identity", [whole], [name]))
    about = [
        package.helper.make_tensor_value_info(
            name, package.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None] * rank
        )
        for name, dtype, rank in [
            ("x", batch.dtype, batch.ndim),
            *((n, a.dtype, a.ndim) for n, a in zip(names, closed.out_avals, strict=True)),
        ]
    ]
    made = package.helper.make_model(
        package.helper.make_graph(graph.nodes, "g", about[:1], about[1:], graph.initializers),
        opset_imports=[package.helper.make_opsetid("", onnx.OPSET)],
        ir_version=onnx.IR_VERSION,
    )
    session = runtime.InferenceSession(made.SerializeToString())
    return session.run(None, {"x": batch})


def activated(x):
    smooth = jax.nn.gelu(x, approximate=False) + jax.nn.sigmoid(x) + jax.nn.softplus(x)
    return jax.nn.relu(x) + smooth


def padded(x):
    return lax.pad(x, jnp.float32(-1), ((0, 0, 0), (1, 2, 0), (0, -1, 0), (0, 0, 0)))[:, 1:]


KERNEL = np.random.default_rng(1).normal(size=(3, 3, 4, 6)).astype(np.float32)
DEEP = np.random.default_rng(2).normal(size=(3, 3, 1, 4)).astype(np.float32)
WIDE = np.random.default_rng(3).normal(size=(5, 4, 7)).astype(np.float32)
CONV = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
FUNCTIONS = {
    "arithmetic": lambda x: jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), -x) / (1 + x**2) - jnp.sign(x),
    "softmax": lambda x: jax.nn.log_softmax(x) + jax.nn.softmax(x, axis=1),
    "activations": activated,
    "finite": lambda x: jnp.isfinite(jnp.where(x > 1, jnp.nan, jnp.where(x < -1, jnp.inf, x))),
    "pad and slice": padded,
    "reductions": lambda x: (x.sum((1, 2)), x.max(-1), x.min(1), jnp.argmax(x, axis=2)),
    "tiny batch of sums": lambda x: x - x.mean(axis=0, keepdims=True),
    "across the batch": lambda x: jnp.einsum("bhwc,dhwc->bd", x, x),
    "count of the batch": lambda x: x * (1 + jnp.arange(x.shape[0]))[:, None, None, None],
    "flat": lambda x: x.reshape(-1, 4) @ WIDE[0, :, :],
    "stack and split": lambda x: jnp.stack(jnp.split(x, 2, axis=3), axis=1),
    "only constants": lambda x: jnp.zeros((x.shape[0], 1, 1, 4)) + WIDE[:1, None, :, 0],
    "joined": lambda x: jnp.concatenate([x, jnp.zeros((x.shape[0], 5, 1, 4))], axis=2),
    "convolution": lambda x: lax.conv_general_dilated(x, KERNEL, (2, 1), ((1, 0), (2, 1)), **CONV),
    "dilated": lambda x: lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", rhs_dilation=(2, 1), **CONV
    ),
    "depthwise": lambda x: lax.conv_general_dilated(
        x, DEEP, (1, 1), "SAME", feature_group_count=4, **CONV
    ),
    "batched product": lambda x: jnp.einsum("bhwc,hcd->bhwd", x, WIDE),
    "two contracted": lambda x: jnp.einsum("bhwc,hcd->bwd", x, WIDE),
    "taken": lambda x: jnp.take(x, np.array([3, 0, 0, 2]), axis=2),
    "one index": lambda x: x[:, 1, -1, :3],
    "along": lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=-1, keepdims=True), axis=-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_what_jax_gives(name):
    function = FUNCTIONS[name]
    for size in (3, 1):
        x = np.random.default_rng(0).normal(size=(size, 5, 6, 4)).astype(np.float32)
        wanted = jax.tree.leaves(function(jnp.asarray(x)))
        found = run(function, x)
        assert len(found) == len(wanted)
        for got, value in zip(found, wanted, strict=True):
            assert got.dtype == value.dtype and got.shape == value.shape
            np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4)])
def test_the_bias_of_a_layer_is_a_vector(shape):
    """ONNX Runtime quantises no other bias of Gemm."""
    kernel, bias = WIDE[0], np.arange(7, dtype=np.float32)
    (size,) = export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((size, *shape), np.float32)
    graph = Graph(size, "x", spec.shape, spec.dtype)
    emit(graph, jax.make_jaxpr(lambda x: x @ kernel + bias)(spec), [graph.input])
    (node,) = (n for n in graph.nodes if n.op_type == "Add")
    (given,) = (i for i in graph.initializers if i.name in node.input)
    np.testing.assert_array_equal(package.numpy_helper.to_array(given), bias)


@pytest.mark.parametrize("decode", DECODERS)
def test_landmarks_are_decoded_as_in_jax(decode):
    maps = np.random.default_rng(0).normal(size=(2, 8, 9, 5)).astype(np.float32)
    maps[0, 0, 0, 0] = maps[0, 7, 8, 1] = 9  # peaks in corners
    maps[1, ..., 2] = 0  # a tie everywhere
    maps[1, 3, 3, 3] = np.nan
    wanted = decode_heatmaps(jnp.asarray(maps), decode)
    found = run(lambda x: decode_heatmaps(x, decode), maps)
    keep = np.ones((2, 5), bool)
    keep[1, 3] = False  # ONNX does not say where the maximum of a NaN is
    for got, value in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got[keep], value[keep], atol=1e-5)


def test_what_has_no_rule_is_named():
    with pytest.raises(NotImplementedError, match="the primitive sort"):
        run(lambda x: jnp.sort(x), np.zeros((2, 3), np.float32))


def test_the_file_says_what_it_takes_and_gives(tmp_path):
    program = Program.of(tiny_models.loaded("vit_se"))
    onnx.write(program, tmp_path / onnx.FILE)
    session = runtime.InferenceSession(tmp_path / onnx.FILE)
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert given.shape == ["batch", 32, 32, 3]
    shapes = {one.name: one.shape for one in session.get_outputs()}
    assert shapes == {"embedding": ["batch", 192], "logits": ["batch", 3]}
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list(tiny_models.NAMES)


def test_sixteen_bits_are_computed_in_thirty_two(tmp_path):
    arguments = {"depth": 1, "image_size": 32, "n_expression": 3}
    narrow = Program.of(tiny_models.make("vit_ti16", arguments | {"dtype": "bfloat16"}))
    onnx.write(narrow, tmp_path / onnx.FILE)
    batch = tiny_models.batch("vit_se", 2)
    wanted = Program.of(tiny_models.make("vit_ti16", arguments)).live(batch)
    found = onnx.read(tmp_path / onnx.FILE)(batch)
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-4)


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[onnx\]"'):
        onnx.write(Program.of(tiny_models.loaded("features")), tmp_path / onnx.FILE)
