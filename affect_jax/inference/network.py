"""A model's compiled functions, and rows of a table made of what they give."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.metrics.classification import softmax
from affect_jax.metrics.hierarchy import group_sums
from affect_jax.models.inference_form import by_slices, fold
from affect_jax.models.landmarks import decode_heatmaps
from affect_jax.models.relations import Comparison, Relations
from affect_jax.models.reliability_attention import BatchAttention
from affect_jax.runtime import forks
from affect_jax.weights.model_dir import OUTPUTS_OF_LABEL, LoadedModel

# Features that one part of a model passes to another: large, and not meant for users.
_INTERNAL = ("features",)
_IN_TABLES = ("expression", "valence_arousal")
# Distributions that become the logits of a model with reliability balancing.
_PARTS_OF_LOGITS = ("primary", "corrected")


class Network:
    """A model's compiled functions, and rows of a table made of what they give.

    Attributes:
      loaded: the model and what is known about it.
      framing: from decoded images to pixels.
      mixes_examples: whether the result for an image depends on the others of its batch, padding
        included.
      compares_batch: whether it depends on the others, without padding.
      float_dtypes: of a batch that is the network's own input.
      n_features: numbers of the feature vectors that the model takes; 0: it takes images.
    """

    def __init__(self, loaded: LoadedModel):
        forks.check()
        self.loaded, self.framing = loaded, loaded.preprocessing.framing
        self.n_features = models.n_features(loaded.model)
        modules = [module for _, module in nnx.iter_modules(loaded.model)]
        self.mixes_examples = any(isinstance(module, BatchAttention) for module in modules)
        self.compares_batch = any(
            isinstance(module, Relations) and module.compares_batch for module in modules
        )
        together = self.mixes_examples or self.compares_batch
        graphdef, self._state = nnx.split(fold(loaded.model))
        dtype = jnp.promote_types(jnp.float32, loaded.arguments.get("dtype", "float32"))
        self.float_dtypes = {np.dtype(np.float32), np.dtype(dtype)}
        self._lock = threading.Lock()
        self._compiled: set[tuple] = set()
        self._columns: dict[bool | None, list[str]] = {}
        # A head that had no labels in training gives noise, and is not shown.
        trained = loaded.provenance.get("trained_for", _IN_TABLES)
        shown = [k for label in _IN_TABLES if label in trained for k in OUTPUTS_OF_LABEL[label]]
        shown += _PARTS_OF_LOGITS if "expression" in trained else ()

        def forward(
            state: nnx.State, images: jax.Array, mask: jax.Array | None = None
        ) -> dict[str, Any]:
            compared = {} if mask is None else {"comparison": Comparison(mask)}

            def run(images: jax.Array) -> dict[str, Any]:
                if images.dtype == jnp.uint8:
                    images = loaded.preprocessing.normalise(images, dtype)
                outputs = nnx.merge(graphdef, state, copy=True)(images, **compared)
                return {k: v for k, v in outputs.items() if k not in _INTERNAL}

            return run(images) if together else by_slices(run, images)

        def brief(
            state: nnx.State,
            images: jax.Array,
            landmarks: bool | None,
            mask: jax.Array | None = None,
        ) -> dict[str, Any]:
            outputs = forward(state, images, mask)
            kept = {k: outputs[k] for k in shown if k in outputs}
            if "heatmaps" in outputs and (landmarks or (landmarks is None and not kept)):
                decode = loaded.arguments.get("decode", "quarter")
                points, _ = decode_heatmaps(outputs["heatmaps"], decode)
                height, width = outputs["heatmaps"].shape[1:3]
                # As fractions of the input, so that the image's size need not be known here.
                kept["landmarks"] = points / jnp.asarray([width, height], points.dtype)
            return kept

        self._forward = jax.jit(forward)
        self._brief = jax.jit(brief, static_argnames="landmarks")

    def forward(self, batch: np.ndarray | jax.Array) -> dict[str, Any]:
        """Return all outputs, on the host."""
        key = ("forward", batch.shape, batch.dtype)
        return self._run(key, lambda: self._forward(self._state, batch))

    def brief(
        self,
        batch: np.ndarray,
        landmarks: bool | None,
        count: int,
        temperature: float | None = None,
    ) -> dict[str, Any]:
        """Return what a table shows; `landmarks` [B, K, 2] are fractions of the input.

        Args:
          batch: uint8 [B, S, S, 3].
          landmarks: whether to give them; None: only if there is nothing else.
          count: of the real images; the others, after them, are padding.
          temperature: divisor of the logits; None: the one that is kept with the model.
        """
        key = ("brief", batch.shape, landmarks)
        mask = np.arange(len(batch)) < count if self.compares_batch else None
        outputs = self._run(key, lambda: self._brief(self._state, batch, landmarks, mask))
        divisor = self.loaded.temperature if temperature is None else temperature
        if "logits" in outputs and divisor != 1:
            outputs["logits"] = np.asarray(outputs["logits"], np.float64) / divisor
        return outputs

    def _run(self, key: tuple, function: Callable[[], Any]) -> Any:
        """Run a compiled function; of threads that need it first, one compiles it."""
        if key in self._compiled:
            return jax.device_get(function())
        with self._lock:
            result = jax.device_get(function())
            self._compiled.add(key)
        return result

    def columns(self, landmarks: bool | None) -> list[str]:
        """Return the names of a table's columns.

        Raises:
          UserError: if there are none, or `landmarks` are asked for and there are none.
        """
        with self._lock:
            if landmarks not in self._columns:
                self._columns[landmarks] = self._find_columns(landmarks)
            return self._columns[landmarks]

    def _find_columns(self, landmarks: bool | None) -> list[str]:
        side = self.loaded.preprocessing.image_size
        blank = {name: np.zeros(shape) for name, shape in self.score_shapes(landmarks).items()}
        return list(self.row(blank, (side, side)))

    def score_shapes(self, landmarks: bool | None) -> dict[str, tuple[int, ...]]:
        """Return what `brief` gives, and the shape of each for one image.

        Raises:
          UserError: as for `columns`.
        """
        if self.n_features:
            raise UserError(
                f"the model {self.loaded.name} takes stored features and no images; use "
                f".outputs(batch) of float32 [B, {self.n_features}]"
            )
        side = self.loaded.preprocessing.image_size
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
        function = functools.partial(self._brief, landmarks=landmarks)
        try:
            shapes = jax.eval_shape(function, self._state, images)
        except ValueError as error:  # model.json was edited
            raise UserError(
                f"the model cannot see images of {images.shape[1:3]}: {error}"
            ) from None
        if not shapes or (landmarks and "landmarks" not in shapes):
            given = ", ".join(sorted(jax.eval_shape(self._forward, self._state, images)))
            wanted = "landmarks" if landmarks else "expression, valence, arousal or landmarks"
            raise UserError(
                f"the model {self.loaded.name} has no head for {wanted} that was trained; it gives "
                f"{given}: use .outputs(batch) of uint8 images [B, {side}, {side}, 3]"
            )
        return {name: shape.shape[1:] for name, shape in shapes.items()}

    def row(self, outputs: dict[str, np.ndarray], shape: tuple[int, int]) -> dict[str, Any]:
        """Return the columns of one image of `shape` (height, width) from its outputs."""
        row: dict[str, Any] = {}
        if "logits" in outputs:
            row |= self._expression(outputs["logits"])
        row |= {k: float(outputs[k]) for k in ("valence", "arousal") if k in outputs}
        if "landmarks" in outputs:
            frame = self.framing.frame(*shape)
            for k, (x, y) in enumerate(self.framing.to_image(outputs["landmarks"], frame)):
                row |= {f"x{k}": float(x), f"y{k}": float(y)}
        return row

    def _expression(self, logits: np.ndarray) -> dict[str, Any]:
        names = self.loaded.class_names or tuple(str(i) for i in range(len(logits)))
        probabilities = softmax(logits)
        best = int(probabilities.argmax())
        return {
            "expression": names[best],
            "confidence": float(probabilities[best]),
            **self._coarse(probabilities, best),
            **{f"p_{name}": float(p) for name, p in zip(names, probabilities, strict=True)},
        }

    def _coarse(self, probabilities: np.ndarray, best: int) -> dict[str, Any]:
        hierarchy = self.loaded.hierarchy
        if hierarchy is None:
            return {}
        place = hierarchy.coarse_of[best]
        summed = float(group_sums(hierarchy, probabilities)[place])
        return {"coarse": hierarchy.coarse[place], "coarse_probability": summed}
