"""A finished model and its data, opened to be looked at: a run, or an exported model."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation.validity import is_number
from affect_jax.metrics.calibration import log_softmax
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run, model_dir
from data_pipelines.loading import pipeline
from data_pipelines.schema import MISSING_ID, same_classes

log = logging.getLogger(__name__)

BATCH_SIZE = 64
_PROBABILITIES = ("primary", "corrected")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model in evaluation mode with the data it belongs to.

    Attributes:
      path: the run's folder or the model directory.
      model: the module, on the first device.
      preprocessing: of its input.
      class_names: position = class id.
      config: of the run that trained it, its data perhaps replaced.
      checkpoint: its step.
    """

    path: pathlib.Path
    model: nnx.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    config: ml_collections.ConfigDict
    checkpoint: int

    def source(self, split: str) -> Any:
        """The examples of a split.

        Raises:
          UserError: if there is no such split, or its classes are not the model's.
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
                f"{tuple(source.class_names)}"
            )
        return source

    def batches(self, source: Any) -> pipeline.Pipeline:
        """One pass over `source`, as the model's evaluation sees it."""
        return pipeline.make_pipeline(
            self.config.data, source, train=False, batch_size=BATCH_SIZE, seed=self.config.seed
        )

    def compiled(self, function: Callable[..., Any]) -> Callable:
        """`function(model, images, *more)`, compiled, as one of uint8 pictures [B, H, W, 3], *more.

        In it `images` are the network's input, and `more` are arrays.
        """
        graphdef, state = nnx.split(self.model)

        @jax.jit
        def run(state: nnx.State, pictures: jax.Array, *more: jax.Array) -> Any:
            model = nnx.merge(graphdef, state, copy=True)
            return function(model, self.preprocessing.normalise(pictures), *more)

        return lambda *arrays: jax.device_get(run(state, *arrays))


def open_subject(
    path: str | pathlib.Path, *, data: Mapping[str, Any] | None = None, checkpoint: str = "best"
) -> Subject:
    """Opens the folder of a run, or a model directory exported from one.

    Args:
      path: the folder.
      data: fields of `config.data` to replace, to look at other pictures.
      checkpoint: of a run: "best", "latest" or a step.

    Raises:
      UserError: if it is neither, there is no such checkpoint, or the model knows no classes.
    """
    path = pathlib.Path(path)
    if load_run.is_workdir(path):
        run = load_run.load_run(path, checkpoint, Mapper(devices=jax.local_devices()[:1]))
        preprocessing = Preprocessing.of_config(run.config)
        model, names, config, step = run.model, run.class_names, run.config, run.step
    elif model_dir.is_model_dir(path):
        loaded = model_dir.load_model(path)
        recorded = loaded.provenance.get("workdir_config")
        if recorded is None:
            raise UserError(
                f"{path} was not exported from a run, so its data are not known; train or evaluate "
                "it in a run (--config.init_from), then name that run's folder"
            )
        config = config_lib.from_recorded(recorded)
        model, names, preprocessing = loaded.model, loaded.class_names, loaded.preprocessing
        step = int(loaded.provenance.get("step", 0))
    else:
        raise UserError(f"{path} is neither the folder of a run nor a model directory")
    if not names:
        raise UserError(
            f"the model in {path} knows no expression classes; there is nothing to draw"
        )
    for key, value in (data or {}).items():
        if key not in config.data:
            raise UserError(f"config.data.{key}: {nearest(key, config.data)}")
        config.data[key] = value
    return Subject(path, model, preprocessing, tuple(names), config, step)


def predictor(subject: Subject, outputs: Sequence[str] = (), *, flip: bool = False) -> Callable:
    """What `run_over` runs: uint8 pictures [B, H, W, 3] -> `logits` [B, N] and more.

    Args:
      subject: the model.
      outputs: names of further outputs wanted, kept where the model has them.
      flip: also the logits of the mirror images, as `mirrored_logits`.

    Returns:
      A function, compiled when it is first called; it raises UserError if there are no logits.
    """
    wanted = ("logits", *outputs)

    def forward(model: nnx.Module, images: jax.Array) -> dict[str, jax.Array]:
        given = model(images)
        if "logits" not in given:
            raise UserError(f"the model in {subject.path} gives no class logits")
        kept = {name: given[name] for name in wanted if name in given}
        if flip:
            kept["mirrored_logits"] = model(images[:, :, ::-1])["logits"]
        return kept

    return subject.compiled(forward)


def run_over(
    subject: Subject, step: Callable, split: str, faces: Sequence[int] = ()
) -> dict[str, Any]:
    """One pass over a split.

    Args:
      subject: the model and its data.
      step: a `predictor` of it.
      split: `test`, `validation` or `train`.
      faces: indices of pictures to keep.

    Returns:
      Per example, ordered by index: `index` [n], `expression` [n] (-1: no label, or its logits are
      no numbers, which the log tells) and what `step` gives; and `faces`, a dict from index to
      uint8 picture.

    Raises:
      UserError: if the split has no readable picture.
    """
    source = subject.source(split)
    parts: dict[str, list[np.ndarray]] = {}
    pictures: dict[int, np.ndarray] = {}
    asked = {int(i) for i in faces}
    with subject.batches(source) as batches:
        for batch in batches:
            mask = np.asarray(batch["mask"])
            rows = {
                **step(batch["image"]),
                "index": batch["index"],
                "expression": batch["expression"],
            }
            for name, values in rows.items():
                parts.setdefault(name, []).append(np.asarray(values)[mask])
            for row in np.flatnonzero(mask):
                if (index := int(batch["index"][row])) in asked:
                    pictures[index] = np.array(batch["image"][row])
    if not parts or not sum(map(len, parts["index"])):
        raise UserError(f"the {split} split of {subject.path} has no readable picture")
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    order = np.argsort(joined["index"], kind="stable")
    result: dict[str, Any] = {name: values[order] for name, values in joined.items()}
    if "logits" in result and not (valid := is_number("logits", result["logits"])).all():
        first = source.describe(int(result["index"][valid.argmin()]))
        log.warning(
            "%d of %d predictions are no numbers and left out, the first that of %s",
            np.count_nonzero(~valid),
            len(valid),
            first,
        )
        result["expression"] = np.where(valid, result["expression"], MISSING_ID)
    result["faces"] = {i: pictures[i] for i in map(int, faces) if i in pictures}
    return result


def distributions(passed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The class distributions [n, N] that a model gives, float64, in the order they arise.

    Returns:
      `primary` and `corrected` where the model has reliability balancing, and always `final`.
    """
    found = {k: np.asarray(passed[k], np.float64) for k in _PROBABILITIES if k in passed}
    return {**found, "final": np.exp(log_softmax(passed["logits"]))}
