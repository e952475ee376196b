"""A graph of ONNX nodes in the making, with constants and a symbolic batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OPSET = 18  # of ONNX Runtime 1.14 (2023) and later
IR_VERSION = 9


@dataclasses.dataclass(frozen=True)
class Value:
    """The result of a node.

    Attributes:
      name: in the graph.
      shape: its dimensions, numbers or multiples of the symbolic batch. It may have a 1 where the
        array that it stands for is larger: ONNX broadcasts it where it is used.
      dtype: of its numbers.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: np.dtype


# A constant, which may also be smaller than the array that it stands for.
Operand = Value | np.ndarray


# From the graph, an equation and its operands to the operands that the equation defines.
Rule = Callable[..., Operand | Sequence[Operand]]


class Rules(dict[str, Rule]):
    """Rules by the name of a primitive of JAX."""

    def of(self, *names: str) -> Callable[[Rule], Rule]:
        """Return a decorator that keeps a rule under these names."""

        def keep(rule: Rule) -> Rule:
            self.update(dict.fromkeys(names, rule))
            return rule

        return keep


class Graph:
    """Nodes in the order of computation.

    Args:
      batch: the symbol of the batch.
      name: of the input.
      shape, dtype: of the input; the first dimension is the batch.
    """

    def __init__(self, batch: Any, name: str, shape: tuple[Any, ...], dtype: np.dtype):
        self.batch, self.input = batch, Value(name, shape, dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: dict[tuple, str] = {}
        self._size: Value | None = None
        self._count = 0

    def name_of(self, operand: Operand) -> str:
        """Return the name of an operand; a constant becomes a part of the graph."""
        from onnx import numpy_helper

        if isinstance(operand, Value):
            return operand.name
        content = np.ascontiguousarray(operand).reshape(operand.shape)
        # Large ones are weights, each of its own.
        key = (content.dtype.str, content.shape, content.tobytes() if content.size < 4096 else id)
        if content.size >= 4096 or key not in self._names:
            self._count += 1
            self._names[key] = f"c{self._count}"
            self.initializers.append(numpy_helper.from_array(content, self._names[key]))
        return self._names[key]

    def add(
        self,
        operator: str,
        operands: Sequence[Operand],
        shape: Sequence[Any],
        dtype: Any = None,
        **attributes: Any,
    ) -> Value:
        """Add a node with one result, of the first operand's dtype unless given."""
        dtype = np.dtype(operands[0].dtype if dtype is None else dtype)
        (result,) = self.add_many(operator, operands, [shape], dtype, **attributes)
        return result

    def add_many(
        self,
        operator: str,
        operands: Sequence[Operand],
        shapes: Sequence[Sequence[Any]],
        dtype: np.dtype,
        **attributes: Any,
    ) -> list[Value]:
        """Add a node with a result for each shape."""
        from onnx import helper

        results = []
        for shape in shapes:
            self._count += 1
            results.append(Value(f"v{self._count}", tuple(shape), np.dtype(dtype)))
        inputs = [self.name_of(x) for x in operands]
        self.nodes.append(
            helper.make_node(operator, inputs, [r.name for r in results], **attributes)
        )
        return results

    def reshape(self, x: Operand, shape: Sequence[Any]) -> Operand:
        """Return an operand with other dimensions."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if isinstance(x, np.ndarray):
            return x.reshape(shape)
        return self.add("Reshape", [x, self.sizes(shape)], shape)

    def transpose(self, x: Operand, order: Sequence[int]) -> Operand:
        """Return an operand with its axes in another order."""
        order = tuple(order)
        if order == tuple(range(len(order))):
            return x
        if isinstance(x, np.ndarray):
            return x.transpose(order)
        return self.add("Transpose", [x], [x.shape[i] for i in order], perm=order)

    def full(self, x: Operand, shape: Sequence[Any]) -> Operand:
        """Return an operand with all the dimensions of the array that it stands for."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if isinstance(x, np.ndarray) and all(isinstance(n, int) for n in shape):
            return np.broadcast_to(x, shape)
        # A 1 leaves a dimension as it is.
        wanted = tuple(1 if m == n else n for m, n in zip(x.shape, shape, strict=True))
        return self.add("Expand", [x, self.sizes(wanted, exact=True)], shape)

    def cast(self, x: Operand, dtype: Any) -> Operand:
        """Return an operand in another dtype."""
        from onnx import helper

        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        if isinstance(x, np.ndarray):
            return x.astype(dtype)
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return self.add("Cast", [x], x.shape, dtype, to=kind)

    def sizes(self, shape: Sequence[Any], *, exact: bool = False) -> Operand:
        """Return the dimensions as numbers, int64.

        Args:
          shape: numbers and multiples of the batch.
          exact: False: one dimension may be -1, which Reshape finds out.
        """
        symbolic = [n for n in shape if not isinstance(n, int)]
        if not symbolic or (len(symbolic) == 1 and not exact):
            return np.array([n if isinstance(n, int) else -1 for n in shape], np.int64)
        parts: list[Operand] = []
        for n in shape:
            if isinstance(n, int):
                parts.append(np.array([n], np.int64))
            else:
                parts.append(self.add("Mul", [self.size, np.array([self.times(n)], np.int64)], [1]))
        return self.add("Concat", parts, [len(parts)], axis=0)

    @property
    def size(self) -> Value:
        """The number of examples in the batch, int64 [1]."""
        if self._size is None:
            self._size = self.add("Shape", [self.input], [1], np.int64, start=0, end=1)
        return self._size

    def times(self, dimension: Any) -> int:
        """Return k of a dimension k * batch.

        Raises:
          NotImplementedError: it depends on the batch in another way.
        """
        factor = dimension // self.batch
        if not isinstance(factor, int) or factor * self.batch != dimension:
            raise NotImplementedError(f"the dimension {dimension}")
        return factor
