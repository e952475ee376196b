"""What a train step keeps for its backward pass, and what it computes again there."""

from collections.abc import Callable
from typing import Any

import jax

# "none" keeps everything. "products" keeps the results of matrix products, convolutions and
# collectives; normalisation, activations and pooling are computed again. "blocks" keeps the inputs
# of a transformer's blocks.
POLICIES = ("none", "products", "blocks")
_KEPT = frozenset({"dot_general", "conv_general_dilated", "psum", "psum_invariant", "all_gather"})


def keeping_products(function: Callable) -> Callable:
    """Return `function` with the policy "products" in its backward pass.

    Collectives are kept too: to repeat one would cost more than the memory is worth.
    """
    return jax.checkpoint(function, policy=_is_kept)


def _is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    # The fused attention of cuDNN is one primitive, whose name begins so.
    return primitive.name in _KEPT or primitive.name.startswith("dot_product_attention")
