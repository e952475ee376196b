"""Using a model: `affect_jax.load(DIR)` gives a `Predictor`."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax import model_io
from affect_jax.errors import UserError
from affect_jax.models.landmarks import decode_heatmaps
from data_pipelines.augment import augment
from data_pipelines.decode import decode, shrink_by
from data_pipelines.example import DecodeError
from data_pipelines.framing import frame_of, halving
from data_pipelines.params import Params

if TYPE_CHECKING:
    import pandas

Picture = np.ndarray | str | os.PathLike

# Features that one part of a model hands to another; large, and of no meaning by themselves.
_INTERNAL = ("features",)


def load(path: str | os.PathLike, *, batch_size: int = 32, **overrides: Any) -> "Predictor":
    """Opens a model directory for prediction.

    Args:
      path: written by training, `python -m affect_jax.convert` or `model_io.save_model`.
      batch_size: most pictures that `predict` runs at once.
      **overrides: constructor arguments to replace, such as `dtype="bfloat16"`.

    Raises:
      UserError: if it is missing or damaged.
    """
    return Predictor(model_io.load_model(path, **overrides), batch_size=batch_size)


class Predictor:
    """A model with its preprocessing and class names.

    Attributes:
      loaded: the model and what is known about it.
      batch_size: most pictures that `predict` runs at once.
    """

    def __init__(self, loaded: model_io.LoadedModel, *, batch_size: int = 32):
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}; at least 1 is needed")
        self.loaded = loaded
        self.batch_size = batch_size
        seen = loaded.preprocessing
        self._framing = Params(fit=seen.fit, margin=seen.margin, random_crop=False)
        graphdef, self._state = nnx.split(loaded.model)
        dtype = jnp.promote_types(jnp.float32, loaded.arguments.get("dtype", "float32"))
        self._float_dtypes = {np.dtype(np.float32), np.dtype(dtype)}

        def forward(state: nnx.State, images: jax.Array) -> dict[str, Any]:
            if images.dtype == jnp.uint8:
                images = loaded.preprocessing.normalise(images, dtype)
            outputs = nnx.merge(graphdef, state, copy=True)(images)
            return {k: v for k, v in outputs.items() if k not in _INTERNAL}

        def brief(state: nnx.State, images: jax.Array, landmarks: bool | None) -> dict[str, Any]:
            outputs = forward(state, images)
            kept = {k: outputs[k] for k in _trained_outputs(loaded) if k in outputs}
            if "heatmaps" in outputs and (landmarks or (landmarks is None and not kept)):
                decode = loaded.arguments.get("decode", "quarter")
                points, _ = decode_heatmaps(outputs["heatmaps"], decode)
                height, width = outputs["heatmaps"].shape[1:3]
                # In parts of the picture, so that its own size need not be known here.
                kept["points"] = points / jnp.asarray([width, height], points.dtype)
            return kept

        self._forward = jax.jit(forward)
        self._brief = jax.jit(brief, static_argnames="landmarks")

    def outputs(self, batch: np.ndarray | jax.Array) -> dict[str, Any]:
        """Everything the model returns for a batch, as NumPy arrays.

        Args:
          batch: [B, H, W, 3] RGB. uint8 pictures are normalised here; float32 is taken as the
            network's own input. The size is left as it is.

        Returns:
          What the model has of `logits` [B, N], `valence` and `arousal` [B], `heatmaps`
          [B, h, w, K] of the last stack, `embedding` [B, F] and so on; `stack_heatmaps` is a list.

        Raises:
          UserError: for another rank, channel count or dtype.
          ValueError: for a size that the model cannot take.
        """
        if not isinstance(batch, np.ndarray | jax.Array):
            raise UserError(f"batch must be an array, not a {type(batch).__name__}")
        if batch.ndim != 4 or batch.shape[-1] != 3 or not batch.shape[0]:
            raise UserError(
                f"batch must be [B, H, W, 3] with at least one picture, got {batch.shape}"
                + ("; add a leading axis for a single one" if batch.ndim == 3 else "")
            )
        if batch.dtype != np.uint8 and batch.dtype not in self._float_dtypes:
            raise UserError(
                f"batch is {batch.dtype}; give uint8 pictures, or float32 already normalised"
            )
        outputs = jax.device_get(self._forward(self._state, batch))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in outputs.items()}

    def predict(
        self, images: Picture | Iterable[Picture], *, landmarks: bool | None = None
    ) -> "pandas.DataFrame":
        """Predictions for whole pictures, one row each, in the order given.

        Args:
          images: a path or a uint8 RGB array [H, W, 3], or any number of them (mixed if need be;
            [B, H, W, 3] is B pictures). They are brought to the model's input as its
            preprocessing says, not cropped to the face.
          landmarks: whether to give landmarks; default: only where the model has nothing else.

        Returns:
          A DataFrame with `path`, or `index` for arrays; what the model has of `expression`,
          `confidence`, `valence`, `arousal` and the probability `p_CLASS` of every class;
          landmarks as `x0`, `y0`, `x1` ... in pixels of the picture; and `error`, which says why
          a file could not be read and is missing where all went well.

        Raises:
          UserError: for arrays that are no uint8 RGB pictures.
        """
        import pandas

        rows: list[dict[str, Any]] = []
        pending: list[tuple[dict[str, Any], np.ndarray, tuple[int, int]]] = []
        padded = 0
        for index, item in enumerate(_each(images)):
            row, picture = self._read(index, item)
            rows.append(row)
            if picture is None:
                continue
            pending.append((row, self._resize(picture), picture.shape[:2]))
            if len(pending) == self.batch_size:
                self._run(pending, self.batch_size, landmarks)
                pending, padded = [], self.batch_size
        if pending:
            # Filled up to the size that is compiled already, if there was a full batch before.
            self._run(pending, padded or len(pending), landmarks)
        frame = pandas.DataFrame(rows)
        if not rows:
            return frame
        return frame[[c for c in frame.columns if c != "error"] + ["error"]]

    def _read(self, index: int, item: Picture) -> tuple[dict[str, Any], np.ndarray | None]:
        if isinstance(item, np.ndarray):
            if item.dtype != np.uint8 or item.ndim != 3 or item.shape[-1] != 3 or not item.size:
                raise UserError(
                    f"picture {index} must be a uint8 RGB array [H, W, 3], got {item.dtype} "
                    f"{item.shape}"
                )
            return {"index": index, "error": None}, item
        if not isinstance(item, str | os.PathLike):
            raise UserError(f"picture {index} is a {type(item).__name__}, not an array or a path")
        row = {"path": os.fspath(item), "error": None}
        try:
            return row, decode(pathlib.Path(item).read_bytes())
        except (OSError, DecodeError) as error:
            row["error"] = error.strerror if isinstance(error, OSError) else str(error)
            return row, None

    def _resize(self, picture: np.ndarray) -> np.ndarray:
        size, margin = self.loaded.preprocessing.image_size, self._framing.margin
        if picture.shape[:2] == (size, size) and not margin:
            return picture
        if self._framing.fit == "stretch" and not margin:
            return cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
        # As the pipeline does: halved by averaging, then one warp.
        frame = frame_of(*picture.shape[:2], None, None, self._framing)
        picture = shrink_by(picture, halving(frame, size * (1 + margin)))
        return augment(picture, params=self._framing, size=size)[0]

    def _run(
        self,
        pending: list[tuple[dict[str, Any], np.ndarray, tuple[int, int]]],
        size: int,
        landmarks: bool | None,
    ) -> None:
        batch = np.zeros((size, *pending[0][1].shape), np.uint8)
        for i, (_, picture, _) in enumerate(pending):
            batch[i] = picture
        outputs = jax.device_get(self._brief(self._state, batch, landmarks))
        for i, (row, _, shape) in enumerate(pending):
            if "logits" in outputs:
                row |= self._expression(outputs["logits"][i])
            row |= {k: float(outputs[k][i]) for k in ("valence", "arousal") if k in outputs}
            if "points" in outputs:
                row |= self._landmark_columns(outputs["points"][i], shape)

    def _landmark_columns(self, points: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
        """x0, y0, x1 ... in pixels of a picture of `shape`, from points [K, 2] in parts of what
        the model saw of it."""
        frame = frame_of(*shape, None, None, self._framing)
        extent = np.array([frame.width, frame.height]) / (1 + self._framing.margin)
        origin = np.array([frame.x, frame.y]) - extent / 2
        columns = {}
        # The first pixel's centre is 0 in pixels, and half a pixel from the corner.
        for k, (x, y) in enumerate(origin + points * extent - 0.5):
            columns |= {f"x{k}": float(x), f"y{k}": float(y)}
        return columns

    def _expression(self, logits: np.ndarray) -> dict[str, Any]:
        names = self.loaded.class_names or tuple(str(i) for i in range(len(logits)))
        exponentials = np.exp(np.float64(logits) - logits.max())
        probabilities = exponentials / exponentials.sum()
        best = int(probabilities.argmax())
        return {
            "expression": names[best],
            "confidence": float(probabilities[best]),
            **{f"p_{name}": float(p) for name, p in zip(names, probabilities, strict=True)},
        }


def _trained_outputs(loaded: model_io.LoadedModel) -> tuple[str, ...]:
    """The outputs worth showing: a head that had no labels in training gives noise."""
    by_label = {"expression": ("logits",), "valence_arousal": ("valence", "arousal")}
    labels = loaded.provenance.get("trained_for", by_label)
    return tuple(name for label in by_label if label in labels for name in by_label[label])


def _each(images: Picture | Iterable[Picture]) -> Iterator[Picture]:
    if isinstance(images, str | os.PathLike):
        yield images
    elif isinstance(images, np.ndarray):
        yield from images[None] if images.ndim == 3 else images
    else:
        yield from images
