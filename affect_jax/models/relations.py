"""Relations between images and labels: image features refined by both.

Liu, Xu, Lang, Wang and Li, "Fine-grained facial expression recognition algorithm based on
relationship-awareness and label disambiguation" (RALD), Acta Electronica Sinica 2024, section 3.3.
They take the features of any backbone and give features of the same length to its last layer:

  ITRR   (eq. 3 to 7)    images attend to images: F -> F~
  HLRR   (eq. 8 to 12)   labels attend to labels: S -> S~
  LGIFO  (eq. 13 to 17)  images attend to labels: F~, S~ -> F^
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from affect_jax.errors import nearest
from affect_jax.models.label_vectors import stand_in
from affect_jax.models.layers import Constant, Counter, Layers
from affect_jax.models.relations_blocks import (
    Bank,
    ImageRelations,
    LabelGuidance,
    LabelRelations,
)
from affect_jax.models.relations_settings import CONTEXTS, parse
from data_pipelines.hierarchies.tree import Hierarchy

# Paths of label vectors and bank among the statistics of a model with relations.
LABEL_VECTORS = "relations/label_vectors"
BANK_FEATURES = "relations/bank_features"
BANK_LABELS = "relations/bank_labels"
BANK_INDEX = "relations/bank_index"


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


def leave_batch(model: nnx.Module) -> bool:
    """Let a model compare images with its bank instead of their batch; return if it did not.

    For uses in which a batch is a part of what belongs together, such as the images of one device.
    """
    changed = False
    for _, part in nnx.iter_modules(model):
        if isinstance(part, Relations) and part.settings.context == "batch":
            part.settings = dataclasses.replace(part.settings, context="bank")
            changed = True
    return changed


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
        self.norm = make.norm(features) if chosen.normalise else None
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

    @property
    def compares_batch(self) -> bool:
        """Whether the result for an image depends on the others of its batch."""
        return self.settings.itrr and self.settings.context == "batch"

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
        x = self._prepared(features)
        if self.settings.itrr:
            mask, context, bank = comparison
            context = "batch" if not self.deterministic else context or self.settings.context
            if context not in CONTEXTS:
                raise ValueError(f"context = {context!r}; {nearest(str(context), CONTEXTS)}")
            if context == "batch":
                mask = jnp.ones(x.shape[0], bool) if mask is None else mask
                x, weights = self.images.of_batch(x, mask, not self.deterministic, rngs)
            else:
                others: Bank | None = None
                if context == "bank":
                    kept = bank or self.bank
                    others = Bank(self._prepared(kept.features), kept.valid)
                x, weights = self.images.of_bank(x, others, rngs)
            outputs["relation_weights"] = weights
            if self.settings.nnldl and not self.deterministic:
                outputs["neighbour_weights"] = weights
        if self.settings.lgifo:
            x = self.guidance(x, self.label_features(rngs), rngs)
        return x, outputs

    def _prepared(self, features: jax.Array) -> jax.Array:
        x = features.astype(self.dtype)
        return x if self.norm is None else self.norm(x)
