"""Architectures. `create(name, **kwargs)` builds one; `names()` lists them.

Every model is called as `model(images)`, images float [B, H, W, 3] already normalised, or of
`features` float [B, D] (see `input_shape`). It returns a
dict of arrays, at least float32, such as `logits` [B, N], `valence` [B], `arousal` [B],
`heatmaps` [B, h, w, K] of the last stack, `stack_heatmaps` (all stacks), `embedding` [B, F].
"""

from affect_jax.models import (
    arbex,
    emofan,
    fan,
    features,
    ir50,
    mobilefacenet,
    poster,
    resnet,
    vit,
)
from affect_jax.models.registry import (
    create,
    default,
    entry,
    head_of,
    input_shape,
    n_features,
    names,
    register,
    section,
    takes,
)

__all__ = [
    "arbex",
    "create",
    "default",
    "emofan",
    "entry",
    "fan",
    "features",
    "head_of",
    "input_shape",
    "ir50",
    "mobilefacenet",
    "n_features",
    "names",
    "poster",
    "register",
    "resnet",
    "section",
    "takes",
    "vit",
]
