"""Architectures. `create(name, **kwargs)` builds one; `names()` lists them.

Every model is called as `model(images)`, images float [B, H, W, 3] already normalised. It returns a
dict of arrays, at least float32, such as `logits` [B, N], `valence` [B], `arousal` [B],
`heatmaps` [B, h, w, K] of the last stack, `stack_heatmaps` (all stacks), `embedding` [B, F].
"""

from affect_jax.models import arbex, emofan, fan, ir50, mobilefacenet, poster, resnet, vit
from affect_jax.models.registry import (
    create,
    default,
    entry,
    head_of,
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
    "head_of",
    "ir50",
    "mobilefacenet",
    "names",
    "poster",
    "register",
    "resnet",
    "section",
    "takes",
    "vit",
]
