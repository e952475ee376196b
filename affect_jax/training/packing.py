"""Parameters laid out as a few long vectors, for the optimizer and for the gradients' average.

A network has hundreds of small parameters. One by one, each of them costs an all-reduce, several
kernels of the optimizer, and the handling of its optimizer state at every step.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from affect_jax.models.state import Flat
from affect_jax.training.optim import has_weight_decay

# Larger parameters stay as they are: copying them would cost more than their own kernels.
_LARGEST = 2**20


@dataclasses.dataclass(frozen=True)
class Packing:
    """The groups of parameters that are treated alike, each of which becomes one vector.

    Attributes:
      members: group -> paths of its parameters, in the order of the vector.
      shapes: path -> shape.
      decays: group -> whether weight decay applies.
      layers: group -> layer, see `models.layer_depth.layer_numbers`.
    """

    members: dict[str, tuple[str, ...]]
    shapes: dict[str, tuple[int, ...]]
    decays: dict[str, bool]
    layers: dict[str, int]

    @classmethod
    def of(cls, params: Flat, layers: Mapping[str, int], by_layer: bool) -> "Packing":
        """Return the packing of parameters.

        Args:
          params: path -> array.
          layers: layer of every parameter.
          by_layer: whether layers are treated differently.
        """
        members: dict[str, tuple[str, ...]] = {}
        decays, group_layers = {}, {}
        for path, array in sorted(params.items()):
            decay, layer = has_weight_decay(path, array), layers[path] if by_layer else 0
            group = path
            if math.prod(array.shape) < _LARGEST:
                dtype = jnp.dtype(array.dtype).name
                group = f"packed/layer{layer}/{'decayed' if decay else 'plain'}/{dtype}"
            members[group] = (*members.get(group, ()), path)
            decays[group], group_layers[group] = decay, layer
        shapes = {path: tuple(array.shape) for path, array in params.items()}
        return cls(members, shapes, decays, group_layers)

    def pack(self, tree: Flat) -> Flat:
        """Return group -> vector (a large parameter alone keeps its shape) of path -> array."""
        return {
            group: tree[group]
            if group in tree
            else jnp.concatenate([jnp.ravel(tree[path]) for path in paths])
            for group, paths in self.members.items()
        }

    def unpack(self, vectors: Flat) -> Flat:
        """Undo `pack`."""
        found = {}
        for group, paths in self.members.items():
            start = 0
            for path in paths:
                if group == path:
                    found[path] = vectors[group]
                    continue
                end = start + math.prod(self.shapes[path])
                part = jax.lax.slice_in_dim(vectors[group], start, end)
                found[path], start = part.reshape(self.shapes[path]), end
        return found
