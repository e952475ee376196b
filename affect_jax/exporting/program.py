"""A model as one function from pixels to named outputs, as all formats but Orbax hold it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError, nearest
from affect_jax.inference.predictor import Predictor
from affect_jax.models.inference_form import depends_on_batch, fold
from affect_jax.models.landmarks import decode_heatmaps, grid_to_pixels
from affect_jax.models.state import take_apart
from affect_jax.models.vit import Attention
from affect_jax.weights.model_dir import Arrays, LoadedModel, arrays_of, assign

BATCH = "batch"  # the symbol of the number of examples
HEATMAPS = "heatmaps"
# Made of heatmaps on request.
LANDMARKS = ("landmarks", "landmark_scores")

Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Program:
    """A model as a function of a batch, with its weights and its normalisation inside.

    Attributes:
      loaded: the model. Its input is uint8 RGB images, or float32 features (`models.features`).
      outputs: names of what the function returns, in order.
    """

    loaded: LoadedModel
    outputs: tuple[str, ...]

    @classmethod
    def of(
        cls, loaded: LoadedModel, outputs: Sequence[str] = (), *, landmarks: bool = False
    ) -> "Program":
        """Return the program of a model.

        Args:
          loaded: the model.
          outputs: names of the outputs to keep, of `available`; default: all arrays that
            `Predictor.outputs` gives.
          landmarks: replace the heatmaps by `landmarks` [B, K, 2], pixels of the input, and
            `landmark_scores` [B, K], the maxima of the heatmaps.

        Raises:
          UserError: the model has no such output, or no heatmaps to decode.
        """
        known = available(loaded)
        if landmarks and HEATMAPS not in known:
            raise UserError(
                f"the model {loaded.name} gives {', '.join(known)} and no heatmaps, so it has no "
                "landmarks; leave out --landmarks"
            )
        chosen = outputs or [name for name in known if name not in LANDMARKS]
        if unknown := [name for name in chosen if name not in known]:
            hint = nearest(unknown[0], known)
            raise UserError(f"the model {loaded.name} has no output {unknown[0]!r}; {hint}")
        if landmarks:
            kept = [name for name in chosen if name not in (HEATMAPS, *LANDMARKS)]
            chosen = [*kept, *LANDMARKS]
        return cls(loaded, tuple(dict.fromkeys(chosen)))

    @property
    def input_name(self) -> str:
        """The name of the input: "images", or "features" for a model on stored features."""
        return "features" if models.n_features(self.loaded.model) else "images"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example of the input."""
        return models.input_shape(self.loaded.model, self.loaded.preprocessing.image_size)

    @property
    def input_dtype(self) -> np.dtype:
        """The dtype of the input."""
        return np.dtype(np.float32 if self.input_name == "features" else np.uint8)

    @property
    def mixes_examples(self) -> bool:
        """Whether the result for an image depends on the others of its batch."""
        return depends_on_batch(self.loaded.model)

    def spec(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Return shape and dtype of an input of `batch` examples, a number or a symbol."""
        return jax.ShapeDtypeStruct((batch, *self.input_shape), self.input_dtype)

    def parts(self, dtype: Any = None) -> tuple[Callable[..., dict[str, jax.Array]], Arrays]:
        """Return the function of arrays and a batch, and the arrays, see `model_dir.arrays_of`.

        JAX can trace the function for any platform.

        Args:
          dtype: of the computation; default: the model's.
        """
        blueprint, params, stats = take_apart(_portable(self.loaded, dtype))
        preprocessing = self.loaded.preprocessing
        own = self.loaded.arguments.get("dtype", "float32")
        wide = jnp.promote_types(jnp.float32, dtype or own)

        def run(arrays: Arrays, batch: jax.Array) -> dict[str, jax.Array]:
            if batch.dtype == jnp.uint8:
                batch = preprocessing.normalise(batch, wide)
            model: Callable = blueprint.build(dict(arrays["params"]), dict(arrays["stats"]))
            return self._chosen(model(batch))

        return run, {"params": params, "stats": stats}

    def function(self, dtype: Any = None) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Return the function of a batch, with the arrays as constants; see `parts`."""
        run, arrays = self.parts(dtype)
        return lambda batch: run(arrays, batch)

    def live(self, batch: np.ndarray) -> Outputs:
        """Return what `affect_jax.load` gives for a batch, with landmarks if they are asked for."""
        found = self._chosen(Predictor(self.loaded).outputs(batch))
        return {name: np.asarray(value) for name, value in found.items()}

    def _chosen(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if set(LANDMARKS).isdisjoint(self.outputs):
            return {name: found[name] for name in self.outputs}
        heatmaps, loaded = jnp.asarray(found[HEATMAPS]), self.loaded
        points, scores = decode_heatmaps(heatmaps, loaded.arguments.get("decode", "quarter"))
        points = grid_to_pixels(points, heatmaps.shape[1], loaded.preprocessing.image_size)
        found = {**found, **dict(zip(LANDMARKS, (points, scores), strict=True))}
        return {name: found[name] for name in self.outputs}

    def example(self, count: int) -> np.ndarray:
        """Return a fixed batch: images of coloured squares, or normal features."""
        random = np.random.default_rng(0)
        if self.input_name == "features":
            return random.normal(size=(count, *self.input_shape)).astype(self.input_dtype)
        height, width, channels = self.input_shape
        squares = random.integers(0, 256, (count, 8, 8, channels), np.uint8)
        rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
        return squares[:, rows][:, :, columns]


def available(loaded: LoadedModel) -> list[str]:
    """Return the names of all outputs that a program of a model can have."""
    shape = models.input_shape(loaded.model, loaded.preprocessing.image_size)
    given = nnx.eval_shape(loaded.model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    names = [name for name, value in given.items() if not isinstance(value, tuple)]
    return names + (list(LANDMARKS) if HEATMAPS in names else [])


def _portable(loaded: LoadedModel, dtype: Any) -> nnx.Module:
    """Return the model in inference form, for a computation that asks for no device."""
    model = models.create(loaded.name, **loaded.arguments | ({"dtype": dtype} if dtype else {}))
    assign(model, arrays_of(loaded.model))
    model.eval()
    for _, part in nnx.iter_modules(model):
        if isinstance(part, Attention):
            part.implementation = "xla"  # "auto" would ask which accelerator is here
    return fold(model)
