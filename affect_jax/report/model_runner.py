"""Runs a finished model over its data: a run's checkpoint, or an exported model."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, models
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation.predictions import fetch_faces
from affect_jax.evaluation.validity import is_number
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.models.relations import Relations, leave_batch
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run, model_dir
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.loading import pipeline
from data_pipelines.schema import MISSING_ID, Source, same_classes
from data_pipelines.sources.subset import Subset

log = logging.getLogger(__name__)

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class OpenModel:
    """A model in evaluation mode with the data it belongs to.

    Attributes:
      path: the run's folder or the model directory.
      model: the module, on the first device.
      preprocessing: of its input.
      class_names: position = class id.
      config: of the run that trained it.
      checkpoint: its step.
      hierarchy: tree over the classes; None: none.
    """

    path: pathlib.Path
    model: nnx.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    config: ml_collections.ConfigDict
    checkpoint: int
    hierarchy: Hierarchy | None = None

    @property
    def relations(self) -> Relations | None:
        """The relations between images and labels of the model; None: it has none."""
        found = getattr(self.model, "relations", None)
        return found if isinstance(found, Relations) else None

    @property
    def has_images(self) -> bool:
        """Whether the model takes images, and not stored features."""
        return not models.n_features(self.model)

    def source(self, split: str) -> Source:
        """Return the examples of a split.

        Raises:
          UserError: the split does not exist, or its classes are not the classes of the model.
        """
        sources = data_lib.make_sources(self.config)
        if load_run.is_workdir(self.path):
            data_record.check_own(self.path, self.config, sources)
        if split not in sources:
            raise UserError(f"--split {split}: {nearest(split, sources)}")
        source = sources[split]
        if not same_classes(source.class_names, self.class_names):
            raise UserError(
                f"the model in {self.path} knows the classes {self.class_names}, the data have "
                f"{tuple(source.class_names)}; use data with the same classes in the same order"
            )
        return source

    def is_reordered(self, split: str, source: Source) -> bool:
        """Return whether records of a split have other positions than in training."""
        return load_run.is_workdir(self.path) and data_record.is_reordered(self.path, split, source)

    def batches(self, source: Source) -> pipeline.Pipeline:
        """Return one pass over `source`, as the model's evaluation sees it."""
        return pipeline.make_pipeline(
            self.config.data, source, train=False, batch_size=BATCH_SIZE, seed=self.config.seed
        )

    def compiled(self, function: Callable[..., Any]) -> Callable:
        """Return `function(model, images, *arrays)` compiled for uint8 images, *arrays.

        Inside, `images` are the network's input.
        """
        graphdef, state = nnx.split(self.model)

        @jax.jit
        def run(state: nnx.State, images: jax.Array, *more: jax.Array) -> Any:
            model = nnx.merge(graphdef, state, copy=True)
            return function(model, self.preprocessing.normalise(images), *more)

        return lambda *arrays: jax.device_get(run(state, *arrays))


def open_model(path: str | pathlib.Path, checkpoint: str = "best") -> OpenModel:
    """Open the folder of a run, or a model directory exported from one.

    A model that compares the images of a batch with each other compares them with its bank here, so
    that a picture does not depend on the order of the data.

    Args:
      path: the folder.
      checkpoint: of a run: "best", "latest" or a step.

    Raises:
      UserError: the path is neither, the checkpoint does not exist, or the model has no classes.
    """
    path = pathlib.Path(path)
    if load_run.is_workdir(path):
        run = load_run.load_run(path, checkpoint, Mapper(devices=jax.local_devices()[:1]))
        preprocessing = Preprocessing.of_config(run.config)
        model, names, config, step = run.model, run.class_names, run.config, run.step
        hierarchy = run.system.hierarchy
    elif model_dir.is_model_dir(path):
        loaded = model_dir.load_model(path)
        recorded = loaded.provenance.get("workdir_config")
        if recorded is None:
            raise UserError(
                f"{path} was not exported from a run, so its data are unknown; train or evaluate "
                "it in a run (--config.init_from) and give the folder of that run"
            )
        config = config_lib.from_recorded(recorded)
        model, names, preprocessing = loaded.model, loaded.class_names, loaded.preprocessing
        step, hierarchy = int(loaded.provenance.get("step", 0)), loaded.hierarchy
    else:
        raise UserError(f"{path} is neither the folder of a run nor a model directory")
    if not names:
        raise UserError(f"the model in {path} has no expression classes, which pictures need")
    if leave_batch(model):
        log.info("%s: images are compared with the model's bank, not with their batch", path)
    return OpenModel(path, model, preprocessing, tuple(names), config, step, hierarchy)


def predictor(
    opened: OpenModel, outputs: Sequence[str] = (), *, flip: bool = False
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a compiled function: uint8 images [B, H, W, 3] -> `logits` and more.

    Args:
      opened: the model. The function raises UserError if it gives no logits.
      outputs: names of further outputs, kept where the model has them.
      flip: also give the logits of the mirror images, as `mirrored_logits`; features have none.
    """
    flip = flip and opened.has_images
    wanted = ("logits", *outputs)

    def forward(model: nnx.Module, images: jax.Array) -> dict[str, jax.Array]:
        given = model(images)
        if "logits" not in given:
            raise UserError(f"the model in {opened.path} gives no class logits")
        kept = {name: given[name] for name in wanted if name in given}
        if flip:
            kept["mirrored_logits"] = model(images[:, :, ::-1])["logits"]
        return kept

    return opened.compiled(forward)


def run_over(
    opened: OpenModel,
    step: Callable[[np.ndarray], dict[str, np.ndarray]],
    split: str,
    faces: Sequence[int] = (),
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Run a model over a split.

    Args:
      opened: the model and its data.
      step: a `predictor` of it.
      split: `test`, `validation` or `train`.
      faces: indices of images to keep.

    Returns:
      Per example, ordered by index: `index` [n], `expression` [n] (-1: no label, or the logits are
      not finite, which is logged) and the outputs of `step`; and the kept uint8 images by index.

    Raises:
      UserError: the split has no readable image.
    """
    source = opened.source(split)
    parts: dict[str, list[np.ndarray]] = {}
    kept: dict[int, np.ndarray] = {}
    with opened.batches(source) as batches:
        for batch in batches:
            mask = np.asarray(batch["mask"])
            labels = {name: batch[name] for name in ("index", "expression")}
            for name, values in {**step(batch["image"]), **labels}.items():
                parts.setdefault(name, []).append(np.asarray(values)[mask])
            for row in np.flatnonzero(mask):
                if (index := int(batch["index"][row])) in faces:
                    kept[index] = np.array(batch["image"][row])
    if not parts or not sum(map(len, parts["index"])):
        raise UserError(f"the {split} split of {opened.path} has no readable image")
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    order = np.argsort(joined["index"], kind="stable")
    outputs = {name: values[order] for name, values in joined.items()}
    if not (valid := is_number("logits", outputs["logits"])).all():
        log.warning(
            "%d of %d predictions are not finite and left out; the first belongs to %s",
            np.count_nonzero(~valid),
            len(valid),
            source.describe(int(outputs["index"][valid.argmin()])),
        )
        outputs["expression"] = np.where(valid, outputs["expression"], MISSING_ID)
    return outputs, {i: kept[i] for i in faces if i in kept}


def images_of(opened: OpenModel, split: str, indices: Sequence[int]) -> dict[int, np.ndarray]:
    """Return uint8 images by index, as the model's evaluation sees them.

    Unreadable images are left out.

    Raises:
      UserError: as `OpenModel.source`.
    """
    rows = np.unique(np.asarray(indices, np.int64))
    if not len(rows):
        return {}
    with opened.batches(Subset(opened.source(split), rows)) as batches:
        found = fetch_faces(batches, range(len(rows)))
    images = {int(rows[place]): image for place, image in found.items()}
    return {index: images[index] for index in indices if index in images}
