"""Relations between images and labels: image features refined by both.

Liu, Xu, Lang, Wang and Li, "Fine-grained facial expression recognition algorithm based on
relationship-awareness and label disambiguation" (RALD), Acta Electronica Sinica 2024, section 3.3.
They take the features of any backbone and give features of the same length to its last layer:

  ITRR   (eq. 3 to 7)    images attend to images: F -> F~
  HLRR   (eq. 8 to 12)   labels attend to labels: S -> S~
  LGIFO  (eq. 13 to 17)  images attend to labels: F~, S~ -> F^

Projections have no bias, as printed. Scores and softmax are float32 or wider.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from affect_jax.errors import nearest
from affect_jax.models.label_vectors import stand_in
from affect_jax.models.layers import MLP, Constant, Counter, Layers, lecun_normal
from affect_jax.models.relations_settings import CONTEXTS, RelationsSettings, parse
from affect_jax.models.reliability_attention import clip_logits
from data_pipelines.hierarchies.tree import Hierarchy

# Path of the label vectors among the statistics of a model with relations.
LABEL_VECTORS = "relations/label_vectors"

_LAYER_NORM_EPSILON = 1e-5
# In place of the score of what is not attended to. Finite, so that no row becomes NaN.
_HIDDEN = -1e30


def _image_init(settings: RelationsSettings) -> Callable:
    """Return the initializer of the last layers of an image block.

    With a residual connection they start at 0, so that a fresh block is a LayerNorm alone, as a
    fresh block of a ResNet is its shortcut alone.
    """
    return nnx.initializers.zeros_init() if settings.residual else lecun_normal


class Bank(NamedTuple):
    """Images that every image is compared with in prediction.

    Attributes:
      features: float [M, D], the backbone's.
      valid: bool [M], False for an empty place.
    """

    features: jax.Array
    valid: jax.Array


class Comparison(NamedTuple):
    """What images are compared with, where the settings of a model leave it open.

    Attributes:
      mask: bool [B], False for padding; None: none.
      context: replaces the one of the settings in prediction, see `RelationsSettings`.
      bank: replaces the model's.
    """

    mask: jax.Array | None = None
    context: str | None = None
    bank: Bank | None = None


BY_SETTINGS = Comparison()


class Block(nnx.Module):
    """norm(M + FFN(M)) of attended features M, eq. 7, 12 and 17."""

    def __init__(self, width: int, dropout: float, make: Layers, out_init: Callable):
        self.ffn = MLP(width, dropout, make, out_init=out_init)
        self.norm = make.layer_norm(width, _LAYER_NORM_EPSILON)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.norm(x + self.ffn(x, rngs))


class Attention(nnx.Module):
    """Projections of one attention with `heads` heads of `head_features` numbers.

    Args:
      queries, keys: lengths of the features that are projected.
      values: length of a head's value.
      out: length of the result.
      project_values: False: the values are the keys' features themselves, whole for every head.
      out_init: of W_MSA.
    """

    def __init__(
        self,
        queries: int,
        keys: int,
        out: int,
        *,
        heads: int,
        head_features: int,
        project_values: bool,
        out_init: Callable,
        make: Layers,
    ):
        self.heads = heads
        inner = heads * head_features
        self.query = make.linear(queries, inner, bias=False)
        self.key = make.linear(keys, inner, bias=False)
        self.value = make.linear(keys, inner, bias=False) if project_values else None
        joined = inner if project_values else heads * keys
        self.out = make.linear(joined, out, bias=False, init=out_init)

    def scores(self, queries: jax.Array, keys: jax.Array, scale: float) -> jax.Array:
        """Return scale * q k^T of projected [Q, I] and [K, I], float32 or wider [heads, Q, K]."""
        wide = jnp.promote_types(jnp.float32, queries.dtype)
        q, k = self._split(queries), self._split(keys)
        found = jnp.einsum("qhd,khd->hqk", q, k, preferred_element_type=wide)
        return clip_logits(scale * found)

    def mix(self, weights: jax.Array, values: jax.Array) -> jax.Array:
        """Return the heads' values [Q, heads, d] of weights [heads, Q, K].

        `values` are projected [K, heads * d], or features [K, d] that all heads share.
        """
        weights = weights.astype(values.dtype)
        if self.value is None:
            return jnp.einsum("hqk,kd->qhd", weights, values)
        return jnp.einsum("hqk,khd->qhd", weights, self._split(values))

    def joined(self, mixed: jax.Array) -> jax.Array:
        """Return concat(heads) W_MSA, [Q, out] (eq. 6, 11, 16)."""
        return self.out(mixed.reshape(len(mixed), -1))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), self.heads, -1)


class ImageRelations(nnx.Module):
    """ITRR: self-attention between images, eq. 3 to 7.

    Keys start as queries do. Fresh attention is then a similarity of images; with two random
    projections the neighbours of eq. 18 would be random too.
    """

    def __init__(self, features: int, settings: RelationsSettings, make: Layers):
        self.scale, self.residual = settings.scale, settings.residual
        self.axis_name = make.axis_name
        self.attention = Attention(
            features,
            features,
            features,
            heads=settings.heads,
            head_features=settings.head_features,
            project_values=True,
            out_init=_image_init(settings),
            make=make,
        )
        start = jnp.array(self.attention.query.kernel[...], copy=True)
        self.attention.key.kernel[...] = start
        self.block = Block(features, settings.dropout, make, _image_init(settings))

    def of_batch(
        self, x: jax.Array, mask: jax.Array, gather: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Compare the images of the batch: F~ [B, D] and weights [B, M].

        Args:
          x: features [B, D].
          mask: bool [B]. An image that is False neither attends nor is attended.
          gather: compare with the images of all replicas of the axis, M = replicas * B.
        """
        x = jnp.where(mask[:, None], x, 0)
        every, valid, own = x, mask, jnp.arange(len(x))
        if gather and self.axis_name is not None:
            every = lax.all_gather(x, self.axis_name, tiled=True)
            valid = lax.all_gather(mask, self.axis_name, tiled=True)
            own = own + lax.axis_index(self.axis_name) * len(x)
        same = own[:, None] == jnp.arange(len(every))
        # An image that is masked sees itself, so that no row is without a weight.
        visible = (mask[:, None] & valid) | same
        attention = self.attention
        assert attention.value is not None
        scores = attention.scores(attention.query(x), attention.key(every), self.scale)
        weights = jax.nn.softmax(jnp.where(visible, scores, _HIDDEN))
        mixed = attention.mix(weights, attention.value(every))
        return self._refined(x, mixed, rngs), jnp.mean(weights, axis=0)

    def of_bank(
        self, x: jax.Array, bank: Bank | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Compare every image with a bank and itself: F~ [B, D] and weights [B, M + 1].

        The last weight is the image's own. Without a bank it is the only one.
        """
        attention = self.attention
        assert attention.value is not None
        queries, own_values = attention.query(x), attention.value(x)
        split = (len(x), attention.heads, -1)
        if bank is None:
            weights = jnp.ones((len(x), 1), jnp.promote_types(jnp.float32, x.dtype))
            return self._refined(x, own_values.reshape(split), rngs), weights
        others = jnp.where(bank.valid[:, None], bank.features.astype(x.dtype), 0)
        scores = attention.scores(queries, attention.key(others), self.scale)
        scores = jnp.where(bank.valid, scores, _HIDDEN)
        pairs = queries.reshape(split) * attention.key(x).reshape(split)
        own = clip_logits(self.scale * jnp.sum(pairs.astype(scores.dtype), axis=-1))
        weights = jax.nn.softmax(jnp.concatenate([scores, own.T[:, :, None]], axis=-1))
        mixed = attention.mix(weights[:, :, :-1], attention.value(others))
        own_share = weights[:, :, -1].T[:, :, None].astype(mixed.dtype)
        mixed = mixed + own_share * own_values.reshape(split)
        return self._refined(x, mixed, rngs), jnp.mean(weights, axis=0)

    def _refined(self, x: jax.Array, mixed: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        attended = self.attention.joined(mixed)
        return self.block(attended + x.astype(attended.dtype) if self.residual else attended, rngs)


class LabelRelations(nnx.Module):
    """HLRR: self-attention between labels, with their place in the tree, eq. 8 to 12.

    The bias b of eq. 9 is one number for the same label, one for parent and child, and one for all
    other pairs (siblings too), shared by the heads. Cumulative softplus keeps them decreasing.
    """

    def __init__(self, hierarchy: Hierarchy | None, settings: RelationsSettings, make: Layers):
        self.scale = settings.scale
        self.attention = Attention(
            settings.label_features,
            settings.label_features,
            settings.label_features,
            heads=settings.heads,
            head_features=settings.head_features,
            project_values=True,
            out_init=lecun_normal,
            make=make,
        )
        self.block = Block(settings.label_features, settings.dropout, make, lecun_normal)
        self.distances: tuple[tuple[int, ...], ...] | None = None
        if settings.hierarchy_bias and hierarchy is not None:
            self.distances = label_distances(hierarchy)
            self.bias = nnx.Param(jnp.zeros(3, make.param_dtype))

    def biases(self) -> jax.Array | None:
        """Return b of all pairs of labels, [C, C]; None without a tree."""
        if self.distances is None:
            return None
        start, *steps = self.bias[...]
        values = [start]
        for step in steps:
            values.append(values[-1] - jax.nn.softplus(step))
        return jnp.stack(values)[np.array(self.distances)]

    def weights(self, labels: jax.Array) -> jax.Array:
        """Return softmax(R_s) of label vectors [C, L], [heads, C, C]."""
        attention = self.attention
        scores = attention.scores(attention.query(labels), attention.key(labels), self.scale)
        bias = self.biases()
        return jax.nn.softmax(scores if bias is None else scores + bias.astype(scores.dtype))

    def __call__(self, labels: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Return S~ of label vectors, both [C, L]."""
        attention = self.attention
        assert attention.value is not None
        mixed = attention.mix(self.weights(labels), attention.value(labels))
        return self.block(attention.joined(mixed), rngs)


class LabelGuidance(nnx.Module):
    """LGIFO: images attend to labels, eq. 13 to 17."""

    def __init__(self, features: int, settings: RelationsSettings, make: Layers):
        self.scale, self.residual = settings.scale, settings.residual
        self.attention = Attention(
            features,
            settings.label_features,
            features,
            heads=settings.heads,
            head_features=settings.head_features,
            project_values=False,
            out_init=_image_init(settings),
            make=make,
        )
        self.block = Block(features, settings.dropout, make, _image_init(settings))

    def __call__(self, x: jax.Array, labels: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Return F^ [B, D] of image features [B, D] and label features [C, L]."""
        attention = self.attention
        scores = attention.scores(attention.query(x), attention.key(labels), self.scale)
        attended = attention.joined(attention.mix(jax.nn.softmax(scores), labels))
        return self.block(attended + x.astype(attended.dtype) if self.residual else attended, rngs)


def label_distances(hierarchy: Hierarchy) -> tuple[tuple[int, ...], ...]:
    """Return the class of every pair of labels by eq. 9, C x C.

    It is 0 for a label and itself, 1 for parent and child, and 2 for all other pairs, where the
    paper writes sigma = 500. Labels are the fine classes and then the coarse ones.
    """
    fine, coarse = len(hierarchy.fine), len(hierarchy.coarse)
    kinds = np.full((fine + coarse, fine + coarse), 2)
    np.fill_diagonal(kinds, 0)
    for child, parent in enumerate(hierarchy.coarse_of):
        kinds[child, fine + parent] = kinds[fine + parent, child] = 1
    return tuple(map(tuple, kinds.tolist()))


class Relations(nnx.Module):
    """Refines image features by their relations to images and labels.

    The label vectors S [C, L] are constants: the classes in the order of their ids, then the coarse
    nodes of the tree. Fresh ones are drawn (`label_vectors.stand_in`). The bank is empty until a
    run fills it; an empty bank is the context "self".

    Args:
      features: length D of the backbone's features.
      n_expression: classes.
      make: factory of layers.
      **settings: see `RelationsSettings`.

    Raises:
      ValueError: settings that cannot be, or a tree of other classes.
    """

    def __init__(self, features: int, n_expression: int, *, make: Layers, **settings: Any):
        chosen = parse(settings)
        if n_expression < 2:
            raise ValueError(f"relations need at least 2 classes, the model has {n_expression}")
        self.settings = chosen
        self.deterministic = False  # switched by `model.train()` and `model.eval()`
        hierarchy = None if chosen.hierarchy is None else Hierarchy.from_plain(chosen.hierarchy)
        if hierarchy is not None and len(hierarchy.fine) != n_expression:
            raise ValueError(
                f"the label tree has {len(hierarchy.fine)} fine classes, the model "
                f"{n_expression}; give a tree of the model's classes"
            )
        self.output_dtype = make.output_dtype
        if chosen.itrr:
            self.images = ImageRelations(features, chosen, make)
            size = chosen.bank_size
            self.bank_features = Counter(jnp.zeros((size, features), make.output_dtype))
            self.bank_labels = Counter(jnp.full(size, -1, jnp.int32))
            self.bank_index = Counter(jnp.full(size, -1, jnp.int32))
        if chosen.lgifo:
            names = tuple(str(i) for i in range(n_expression))
            vectors = stand_in(hierarchy, names, length=chosen.label_features)
            self.label_vectors = Constant(jnp.asarray(vectors, make.param_dtype))
            self.guidance = LabelGuidance(features, chosen, make)
        if chosen.hlrr:
            self.labels = LabelRelations(hierarchy, chosen, make)
        self.dtype = make.dtype

    @classmethod
    def of(
        cls, settings: Mapping[str, Any] | None, features: int, n_expression: int, make: Layers
    ) -> "Relations | None":
        """Return the relations that a model's `relations` argument asks for, or None.

        Raises:
          ValueError: as the constructor.
        """
        if settings is None:
            return None
        parse(settings)
        return cls(features, n_expression, make=make, **settings)

    @property
    def bank(self) -> Bank:
        """The bank that the model keeps."""
        return Bank(self.bank_features[...], self.bank_labels[...] >= 0)

    def label_features(self, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return what images attend to: S~ [C, L] with HLRR, else S."""
        vectors = self.label_vectors[...].astype(self.dtype)
        return self.labels(vectors, rngs) if self.settings.hlrr else vectors

    def __call__(
        self,
        features: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return refined features [B, D] and further outputs.

        In training images are compared with the global batch. The outputs are `image_features`
        [B, D], which were given; with ITRR `relation_weights` [B, M], the attention averaged over
        the heads. M are the images of the global batch in training, those of the batch in the
        context "batch", the bank and the image itself in "bank", and the image itself in "self".
        In training with NNLDL the weights are also `neighbour_weights`, for its loss.

        Args:
          features: of the backbone, [B, D].
          rngs: with a stream `dropout`, in training.
          comparison: what to compare with.

        Raises:
          ValueError: an unknown context.
        """
        outputs = {"image_features": features.astype(self.output_dtype)}
        x = features.astype(self.dtype)
        if self.settings.itrr:
            mask, context, bank = comparison
            context = "batch" if not self.deterministic else context or self.settings.context
            if context not in CONTEXTS:
                raise ValueError(f"context = {context!r}; {nearest(str(context), CONTEXTS)}")
            if context == "batch":
                mask = jnp.ones(len(x), bool) if mask is None else mask
                x, weights = self.images.of_batch(x, mask, not self.deterministic, rngs)
            else:
                bank = (bank or self.bank) if context == "bank" else None
                x, weights = self.images.of_bank(x, bank, rngs)
            outputs["relation_weights"] = weights
            if self.settings.nnldl and not self.deterministic:
                outputs["neighbour_weights"] = weights
        if self.settings.lgifo:
            x = self.guidance(x, self.label_features(rngs), rngs)
        return x, outputs
