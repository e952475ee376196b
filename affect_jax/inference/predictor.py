"""Using a model: `affect_jax.load(DIR)` gives a `Predictor`."""

import functools
import os
import pathlib
import pickle
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.evaluation.validity import is_number
from affect_jax.inference import image_inputs
from affect_jax.inference.image_inputs import ImageInput
from affect_jax.metrics.classification import softmax
from affect_jax.metrics.hierarchy import group_sums
from affect_jax.models.inference_form import fold
from affect_jax.models.landmarks import decode_heatmaps
from affect_jax.models.relations import Comparison, Relations
from affect_jax.models.reliability_attention import BatchAttention
from affect_jax.runtime import forks, xla_flags
from affect_jax.weights.model_dir import OUTPUTS_OF_LABEL, LoadedModel, load_model
from data_pipelines.images.decode import MAX_PIXELS
from data_pipelines.schema import DecodeError

if TYPE_CHECKING:
    import pandas

# Features that one part of a model passes to another: large, and not meant for users.
_INTERNAL = ("features",)
# Batches are padded to one of these sizes, so that few programs are compiled.
_BATCH_SIZES = (1, 4, 16)
_IN_TABLES = ("expression", "valence_arousal")
_TEXTS = ("expression", "coarse")  # columns that hold no number

# A row of the table, the network's input uint8 [S, S, 3], and (height, width) of the image.
_Pending = tuple[dict[str, Any], np.ndarray, tuple[int, int]]


def load(
    path: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    context: str | None = None,
    **overrides: Any,
) -> "Predictor":
    """Open a model directory for prediction.

    Args:
      path: written by `affect_jax.export`, `affect_jax.convert` or `model_dir.save_model`.
      batch_size: maximum number of images that `predict` runs at once.
      max_pixels: larger files (width x height) are not decoded.
      context: for a model that relates images (RALD): what an image is compared with. "bank": the
        training images that are kept with the model; "self": none; "batch": the other images of
        the request, so that results depend on them. Default: as the model was trained.
      **overrides: constructor arguments to replace, such as `dtype="bfloat16"`.

    Raises:
      UserError: if it is missing or damaged, or `context` does not exist or has no effect.
    """
    xla_flags.choose()
    loaded = load_model(pathlib.Path(path), context=context, **overrides)
    return Predictor(loaded, batch_size=batch_size, max_pixels=max_pixels)


class Predictor:
    """A model with its preprocessing and class names.

    Several threads may use one. It can be pickled, and so be passed to processes started without
    forking (`multiprocessing.get_context("spawn")`). In a forked process it raises UserError,
    because JAX would hang there.

    Attributes:
      batch_size: maximum number of images that `predict` runs at once.
      max_pixels: larger files (width x height) become rows with an error.
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 32, max_pixels: int = MAX_PIXELS):
        for name, value in (("batch_size", batch_size), ("max_pixels", max_pixels)):
            if value < 1:
                raise UserError(f"{name} = {value}; at least 1 is needed")
        self.batch_size, self.max_pixels = batch_size, max_pixels
        self._packed = b""
        self._lock = threading.RLock()
        self._network: _Network | None = _Network(loaded)

    def __getstate__(self) -> dict[str, Any]:
        packed = self._packed or pickle.dumps(self.loaded)
        return {"packed": packed, "batch_size": self.batch_size, "max_pixels": self.max_pixels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Opened when first used: an error while unpickling would stop a worker without a message.
        self.batch_size, self.max_pixels = state["batch_size"], state["max_pixels"]
        self._packed = state["packed"]
        self._lock = threading.RLock()
        self._network = None

    def _opened(self) -> "_Network":
        forks.check()
        with self._lock:
            if self._network is None:
                self._network, self._packed = _Network(pickle.loads(self._packed)), b""
            return self._network

    @property
    def loaded(self) -> LoadedModel:
        """The model and what is known about it."""
        return self._opened().loaded

    def outputs(self, batch: np.ndarray | jax.Array) -> dict[str, Any]:
        """Return all raw outputs of the model for a batch, as NumPy arrays.

        Args:
          batch: [B, H, W, 3] RGB, not resized here. uint8 images are normalised; float32 is the
            network's own input. A model on stored features takes them, float32 [B, D].

        Returns:
          What the model has of `logits` [B, N], `valence` and `arousal` [B], `heatmaps`
          [B, h, w, K] of the last stack, `embedding` [B, F] and so on; `stack_heatmaps` is a list.

        Raises:
          UserError: for another rank, channel count or dtype, or in a forked process.
          ValueError: for a size that the model cannot take.
        """
        network = self._opened()
        if not isinstance(batch, np.ndarray | jax.Array):
            raise UserError(f"batch must be an array, not a {type(batch).__name__}")
        if network.n_features:
            if batch.ndim != 2 or batch.shape[1] != network.n_features or not batch.shape[0]:
                raise UserError(
                    f"batch must be features [B, {network.n_features}], got {batch.shape}"
                )
        elif batch.ndim != 4 or batch.shape[-1] != 3 or not batch.shape[0]:
            raise UserError(
                f"batch must be [B, H, W, 3] with at least one image, got {batch.shape}"
                + ("; add a leading axis for a single one" if batch.ndim == 3 else "")
            )
        images = batch.dtype == np.uint8 and not network.n_features
        if not images and batch.dtype not in network.float_dtypes:
            raise UserError(
                f"batch is {batch.dtype}; give "
                + (
                    "float32"
                    if network.n_features
                    else "uint8 images, or float32 already normalised"
                )
            )
        outputs = network.forward(batch)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in outputs.items()}

    def predict(
        self, images: ImageInput | Iterable[ImageInput], *, landmarks: bool | None = None
    ) -> "pandas.DataFrame":
        """Predict whole images; return one row per image, in the order given.

        With the context "batch" (see `load`), an image is compared with at most `batch_size` - 1
        others, those that are predicted at once with it.

        Args:
          images: one image or any number of them, each a path; the bytes of an image file; a
            Pillow image; or a uint8 array [H, W, 3] RGB, [H, W] or [H, W, 1] grey, or [H, W, 4]
            RGBA, where transparency becomes black. An array [B, H, W, C] is B images. They are
            resized as the model's preprocessing says, and not cropped to the face.
          landmarks: whether to give landmarks; default: only if the model has nothing else.

        Returns:
          A DataFrame with `path`, or `index` for an image without one; what the model has of
          `expression`, `confidence`, with a tree over the classes `coarse` (the coarse class of
          `expression`) and `coarse_probability` (the sum over its classes), the probability
          `p_CLASS` of every class, `valence` and `arousal`; landmarks as `x0`, `y0`, `x1` ... in
          pixels of the image; and `error`, which says why an image could not be read, or that the
          model gave no number for it, and is missing where all went well. The columns do not
          depend on errors.

        Raises:
          UserError: for an input that is not an image (None, a folder, floats ...), a model
            without anything to predict (see `outputs`), or in a forked process.
        """
        import pandas

        network = self._opened()
        columns = network.columns(landmarks)
        rows: list[dict[str, Any]] = []
        pending: list[_Pending] = []
        # After a full batch its program is used for the last one too.
        sizes = [*_BATCH_SIZES, self.batch_size]
        for index, item in enumerate(image_inputs.each(images)):
            row, image = self._read(index, item)
            rows.append(row)
            if image is None:
                continue
            pending.append((row, network.framing.pixels(image), image.shape[:2]))
            if len(pending) == self.batch_size:
                self._run(network, pending, self.batch_size, landmarks)
                pending, sizes = [], [self.batch_size]
        if pending:
            if network.mixes_examples:  # padding would change the results
                sizes = [len(pending)]
            size = min(n for n in sizes if n >= len(pending))
            self._run(network, pending, size, landmarks)
        named = [name for name in ("path", "index") if any(name in row for row in rows)]
        table = pandas.DataFrame(rows, columns=[*(named or ["path"]), *columns, "error"])
        return table.astype({name: float for name in columns if name not in _TEXTS})

    def _read(self, index: int, item: ImageInput) -> tuple[dict[str, Any], np.ndarray | None]:
        row: dict[str, Any] = {"index": index, "error": None}
        if image_inputs.is_path(item):
            row = {"path": os.fsdecode(item), "error": None}
        try:
            return row, image_inputs.read(item, self.max_pixels)
        except OSError as error:
            row["error"] = error.strerror or str(error)
        except (DecodeError, ValueError) as error:  # a ValueError: a path that no file can have
            row["error"] = str(error)
        return row, None

    def _run(
        self, network: "_Network", pending: list[_Pending], size: int, landmarks: bool | None
    ) -> None:
        batch = np.zeros((size, *pending[0][1].shape), np.uint8)
        batch[: len(pending)] = [pixels for _, pixels, _ in pending]
        outputs = network.brief(batch, landmarks, len(pending))
        valid = {name: is_number(name, values) for name, values in outputs.items()}
        for i, (row, _, shape) in enumerate(pending):
            if bad := [name for name in valid if not valid[name][i]]:
                row["error"] = f"the model gives no number for {' and '.join(bad)}"
            else:
                row |= network.row({name: v[i] for name, v in outputs.items()}, shape)


class _Network:
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
        self.compares_batch = any(_compares_batch(module) for module in modules)
        graphdef, self._state = nnx.split(fold(loaded.model))
        dtype = jnp.promote_types(jnp.float32, loaded.arguments.get("dtype", "float32"))
        self.float_dtypes = {np.dtype(np.float32), np.dtype(dtype)}
        self._lock = threading.Lock()
        self._compiled: set[tuple] = set()
        self._columns: dict[bool | None, list[str]] = {}
        # A head that had no labels in training gives noise, and is not shown.
        trained = loaded.provenance.get("trained_for", _IN_TABLES)
        shown = [k for label in _IN_TABLES if label in trained for k in OUTPUTS_OF_LABEL[label]]

        def forward(
            state: nnx.State, images: jax.Array, mask: jax.Array | None = None
        ) -> dict[str, Any]:
            if images.dtype == jnp.uint8:
                images = loaded.preprocessing.normalise(images, dtype)
            compared = {} if mask is None else {"comparison": Comparison(mask)}
            outputs = nnx.merge(graphdef, state, copy=True)(images, **compared)
            return {k: v for k, v in outputs.items() if k not in _INTERNAL}

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

    def brief(self, batch: np.ndarray, landmarks: bool | None, count: int) -> dict[str, Any]:
        """Return what a table shows; `landmarks` [B, K, 2] are fractions of the input.

        The first `count` images are real, the others padding.
        """
        key = ("brief", batch.shape, landmarks)
        mask = np.arange(len(batch)) < count if self.compares_batch else None
        return self._run(key, lambda: self._brief(self._state, batch, landmarks, mask))

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
        if self.n_features:
            raise UserError(
                f"the model {self.loaded.name} takes stored features and no images; use "
                f".outputs(batch) of float32 [B, {self.n_features}]"
            )
        side = self.loaded.preprocessing.image_size
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
        function = functools.partial(self._brief, landmarks=landmarks)
        shapes = jax.eval_shape(function, self._state, images)
        if not shapes or (landmarks and "landmarks" not in shapes):
            given = ", ".join(sorted(jax.eval_shape(self._forward, self._state, images)))
            wanted = "landmarks" if landmarks else "expression, valence, arousal or landmarks"
            raise UserError(
                f"the model {self.loaded.name} has no head for {wanted} that was trained; it gives "
                f"{given}: use .outputs(batch) of uint8 images [B, {side}, {side}, 3]"
            )
        blank = {name: np.zeros(shape.shape[1:]) for name, shape in shapes.items()}
        return list(self.row(blank, (side, side)))

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


def _compares_batch(module: nnx.Module) -> bool:
    return (
        isinstance(module, Relations)
        and module.settings.itrr
        and module.settings.context == "batch"
    )
