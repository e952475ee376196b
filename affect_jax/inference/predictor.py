"""Using a model: `affect_jax.load(DIR)` gives a `Predictor`."""

import functools
import logging
import os
import pathlib
import pickle
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from affect_jax.errors import UserError
from affect_jax.evaluation.validity import is_number
from affect_jax.inference import image_inputs
from affect_jax.inference.image_inputs import ImageInput
from affect_jax.inference.network import Network
from affect_jax.models.preprocessing import ASSUMED_FACE_SCALE, Preprocessing
from affect_jax.runtime import forks, xla_flags
from affect_jax.weights.model_dir import LoadedModel, is_model_dir, load_model
from data_pipelines.images.decode import MAX_PIXELS
from data_pipelines.schema import DecodeError

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

# Batches are padded to one of these sizes, so that few programs are compiled.
_BATCH_SIZES = (1, 4, 16)
_TEXTS = ("expression", "coarse")  # columns that hold no number

# A row of the table, the network's input uint8 [S, S, 3], and (height, width) of the image.
_Pending = tuple[dict[str, Any], np.ndarray, tuple[int, int]]


# The model that comes with the package, an ordinary model directory.
BOX_MODEL = pathlib.Path(__file__).parent / "box_model"


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    context: str | None = None,
    **overrides: Any,
) -> "Predictor":
    """Open a model directory for prediction.

    Args:
      path: written by `affect_jax.export`, `affect_jax.convert` or `model_dir.save_model`; None:
        the model that comes with the package.
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
    loaded = load_model(place_of(path), context=context, **overrides)
    return Predictor(loaded, batch_size=batch_size, max_pixels=max_pixels)


def place_of(path: str | os.PathLike[str] | None) -> pathlib.Path:
    """Return the folder of a model: `path`, or where the package keeps its own.

    Raises:
      UserError: the package was installed without a model.
    """
    if path is not None:
        return pathlib.Path(path)
    if not is_model_dir(BOX_MODEL):
        raise UserError(
            f"no model was named, and this installation has none of its own in {BOX_MODEL}; name a "
            "model directory, as `python -m affect_jax.export` or convert writes it, or install "
            "affect_jax again"
        )
    return BOX_MODEL


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
        self._network: Network | None = Network(loaded)

    def __getstate__(self) -> dict[str, Any]:
        packed = self._packed or pickle.dumps(self.loaded)
        return {"packed": packed, "batch_size": self.batch_size, "max_pixels": self.max_pixels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Opened when first used: an error while unpickling would stop a worker without a message.
        self.batch_size, self.max_pixels = state["batch_size"], state["max_pixels"]
        self._packed = state["packed"]
        self._lock = threading.RLock()
        self._network = None

    def _opened(self) -> "Network":
        forks.check()
        with self._lock:
            if self._network is None:
                self._network, self._packed = Network(pickle.loads(self._packed)), b""
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

    def scores(
        self,
        crops: np.ndarray,
        *,
        landmarks: bool | None = None,
        temperature: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Return what a table shows of ready crops uint8 [B, S, S, 3], as NumPy arrays.

        They are `logits`, `primary`, `corrected` [B, N], `valence`, `arousal` [B] and `landmarks`
        [B, K, 2], as fractions of the crop's sides: those that the model was trained for.

        Args:
          crops: see above.
          landmarks: whether to give them; None: only if the model has nothing else.
          temperature: divisor of the logits; None: the one that is kept with the model.
        """
        return self._opened().brief(crops, landmarks, len(crops), temperature)

    def score_shapes(self, landmarks: bool | None = None) -> dict[str, tuple[int, ...]]:
        """Return what `scores` gives, and the shape of each for one image.

        Raises:
          UserError: the model predicts nothing for a table, or no `landmarks`, if asked for.
        """
        return self._opened().score_shapes(landmarks)

    @functools.cached_property
    def face_preprocessing(self) -> Preprocessing:
        """The preprocessing for faces in larger images; warns once if their crop is assumed."""
        own = self.loaded.preprocessing
        if not own.crops_faces:
            log.warning(
                "the model does not say how large faces were in its training images: of each face "
                "it sees a square %g times as large as the box, which is a guess; show ready crops "
                "whole with --no_detect (detect=False)",
                ASSUMED_FACE_SCALE,
            )
        return own.for_faces()

    @property
    def relates_images(self) -> bool:
        """Whether the result for an image depends on the others of its batch."""
        network = self._opened()
        return network.mixes_examples or network.compares_batch

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
        self, network: "Network", pending: list[_Pending], size: int, landmarks: bool | None
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
