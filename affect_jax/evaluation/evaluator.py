"""One pass over a split: exact metrics, and the predictions behind them.

Metrics come from sufficient statistics of all unmasked examples, so they do not depend on the
batch size or on the number of devices and processes.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import config as config_lib
from affect_jax.evaluation import smoothing, validity
from affect_jax.metrics import reliability
from affect_jax.metrics.base import MetricSet
from affect_jax.models.preprocessing import normalise
from affect_jax.models.state import Blueprint
from affect_jax.runtime.parallel import Mapper, all_gather_hosts
from affect_jax.systems.base import System
from data_pipelines.schema import Source, same_classes

log = logging.getLogger(__name__)

Predictions = dict[str, np.ndarray]
_LABELS = ("expression", "valence_arousal", "landmarks")
# Label fields whose predictions are averaged: over mirror images, and over frames.
FLIPPED = ("valence_arousal",)
SMOOTHED = ("expression", "valence_arousal")


def make_eval_step(
    system: System, blueprint: Blueprint, image_size: int, *, flip: bool
) -> Callable[[dict, dict], dict[str, jax.Array]]:
    """The per-replica evaluation step: (state, batch) -> per-example arrays.

    Returns a function whose outputs are those of `System.predictions`; with `flip`, valence and
    arousal of the mirrored image are there too, as `mirrored_valence` and `mirrored_arousal`, and
    with `config.eval.calibrate` its `mirrored_logits`.
    """
    section = system.config.model
    twice = ("valence", "arousal", *(("logits",) if system.config.eval.calibrate else ()))

    def predict(model: nnx.Module, images: jax.Array) -> dict[str, jax.Array]:
        outputs = model(normalise(images, section.mean, section.std))
        return system.predictions(outputs, image_size)

    def step(state: dict, batch: dict) -> dict[str, jax.Array]:
        arrays = state.get("ema", state)
        model = blueprint.build(arrays["params"], arrays["stats"])
        outputs = predict(model, batch["image"])
        again = [name for name in twice if flip and name in outputs]
        if again:
            mirrored = predict(model, batch["image"][:, :, ::-1])
            outputs |= {f"mirrored_{name}": mirrored[name] for name in again}
        return outputs

    return step


def flip_averaged(predictions: Predictions) -> Predictions:
    """Valence and arousal averaged over image and mirror image, then clipped to [-1, 1]."""
    averaged = dict(predictions)
    for name in ("valence", "arousal"):
        mean = (predictions[name] + predictions[f"mirrored_{name}"]) / 2
        averaged[name] = np.clip(mean, -1.0, 1.0)
    return averaged


@dataclasses.dataclass
class Evaluation:
    """Result of one pass.

    Attributes:
      metrics: name -> value, of the plain pass. Examples whose predictions are no numbers are
        wrong, make regression figures NaN and are counted as `invalid_predictions`.
      flip: figures of valence and arousal averaged over picture and mirror image; nothing else is
        averaged, so nothing else is here. None without the mirrored pass.
      video: figures of logits, valence and arousal averaged over the last frames of each video
        (see `smoothing.smooth`), likewise; None unless asked.
      images: examples that could be read, of all processes.
      predictions: per-example arrays with labels and `index`, of all processes; None unless asked.
    """

    metrics: dict[str, float]
    flip: dict[str, float] | None = None
    video: dict[str, float] | None = None
    predictions: Predictions | None = None
    images: int = 0


def with_loss(metrics: dict[str, float], supervised: Iterable[str]) -> dict[str, float]:
    """Puts `loss`, one figure for model selection, in front of the metrics of a split.

    It is the sum of the negative log-likelihood, 1 - the mean CCC of valence and arousal, and the
    NME: of the labels that the run learns and the split has. Without any there is no `loss`.

    Args:
      metrics: name -> value.
      supervised: label fields that the loss of the run trains, see `System.supervised`.
    """
    terms = []
    if "expression" in supervised and "nll" in metrics:
        terms.append(metrics["nll"])
    ccc = [metrics[n] for n in ("valence_ccc", "arousal_ccc") if n in metrics]
    if "valence_arousal" in supervised and ccc:
        terms.append(1.0 - sum(ccc) / len(ccc))
    if "landmarks" in supervised and "nme" in metrics:
        terms.append(metrics["nme"])
    return {"loss": sum(terms), **metrics} if terms else dict(metrics)


class Evaluator:
    """Evaluates states of one model; compiled once.

    Args:
      system: the system that the model belongs to.
      mapper: maps the step over the devices.
      blueprint: of the model in evaluation mode.
      flip: run the mirrored pass as well.
      min_count: classes with fewer true examples are left out of macro scores.
    """

    def __init__(
        self,
        system: System,
        mapper: Mapper,
        blueprint: Blueprint,
        *,
        flip: bool = False,
        min_count: int = 1,
    ):
        self._system = system
        self._mapper = mapper
        self._flip = flip
        self._min_count = min_count
        step = make_eval_step(system, blueprint, system.config.data.image_size, flip=flip)
        self._step = mapper.map(step, sharded_output=True)

    def _new_metrics(self, has: Collection[str] | None = None) -> MetricSet:
        system = self._system
        metrics = self._metrics_of(system.has if has is None else has)
        if metrics.classification is not None:  # they are about classes
            metrics.extra = system.extra_metrics(self._min_count)
        return metrics

    def _metrics_of(self, fields: Collection[str]) -> MetricSet:
        """Empty metrics of those of the label `fields` that the system has."""
        system = self._system
        return MetricSet(
            has=(system.has & system.known).intersection(fields),
            num_classes=system.num_classes,
            class_names=system.class_names,
            min_count=self._min_count,
        )

    def metric_names(self, has: Collection[str] | None = None) -> set[str]:
        """Names that `run` will measure, known before any picture is read.

        Args:
          has: label fields of the split; default: all those of the training data.
        """
        # Enough examples of every class for each figure to exist.
        count = max(self._min_count, 2)
        system = self._system
        names = reliability.names_of(self._new_metrics(has), system.num_classes, count)
        fields = system.supervised if has is None else system.supervised & frozenset(has)
        return names if fields else names - {"loss"}

    def run(
        self,
        state: dict[str, Any],
        batches: Iterable[dict],
        *,
        keep_predictions: bool = False,
        tracks: np.ndarray | None = None,
    ) -> Evaluation:
        """Runs over `batches` (this process's part of every batch, padded and masked).

        Args:
          state: placed on the devices; `params` or `ema`, and `stats` are read.
          batches: one pass over a split.
          keep_predictions: also return the per-example arrays.
          tracks: int [n] of the split's records (see `schema.Source`): also measure with
            smoothing over the frames of each.
        """
        view = {k: state[k] for k in ("params", "stats", "ema") if k in state}
        plain, flipped = self._new_metrics(), self._metrics_of(FLIPPED)
        kept: list[Predictions] = []
        invalid, images = validity.InvalidPredictions(), 0
        for host_batch, batch in self._mapper.prefetch(batches):
            outputs = self._mapper.local_rows(self._step(view, batch))
            plain.update(outputs, host_batch)
            invalid.add(outputs, host_batch)
            images += np.count_nonzero(host_batch["mask"])
            if "mirrored_valence" in outputs:
                flipped.update(flip_averaged(outputs), host_batch)
            if keep_predictions or tracks is not None:
                kept.append(_with_labels(outputs, host_batch))
        metrics = self._compute(plain)
        result = Evaluation(with_loss(metrics, self._system.supervised))
        result.metrics |= invalid.count(getattr(batches, "describe", None))
        result.images = int(all_gather_hosts(np.array([images], np.float64)).sum())
        if self._flip and {"valence_ccc", "arousal_ccc"} & result.metrics.keys():
            result.flip = self._compute(flipped)
        # Of all processes: the frames of a video are spread over them.
        joined = _join(kept) if kept else None
        if tracks is not None:
            result.video = self._measure(smoothing.smooth_predictions(joined, tracks))
        if keep_predictions:
            result.predictions = joined
        return result

    def _measure(self, joined: Predictions) -> dict[str, float] | None:
        """Metrics of smoothed predictions, which every process holds."""
        labels = {k: joined.get(f"true_{k}", joined.get(k)) for k in _LABELS}
        return self._metrics_of(SMOOTHED).update(joined, labels).compute() or None

    def _compute(self, local: MetricSet) -> dict[str, float]:
        """Figures of the metrics of all processes together."""
        first, *others = (local.from_array(row) for row in all_gather_hosts(local.to_array()))
        for other in others:
            first.merge(other)
        return first.compute()


def _with_labels(outputs: Predictions, batch: dict[str, np.ndarray]) -> Predictions:
    names = ("index", "mask", *_LABELS, "group", "attributes")
    return {
        **outputs,
        **{f"true_{k}" if k in outputs else k: batch[k] for k in names if k in batch},
    }


def _join(parts: list[Predictions]) -> Predictions:
    """Rows of all batches and processes without padding, ordered by index."""
    local = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    joined = {}
    for name, array in local.items():
        gathered = all_gather_hosts(array.astype(np.float64))
        joined[name] = gathered.reshape(-1, *array.shape[1:]).astype(array.dtype)
    keep = np.flatnonzero(joined.pop("mask"))
    order = keep[np.argsort(joined["index"][keep], kind="stable")]
    return {k: v[order] for k, v in joined.items()}


def tracks_to_smooth(config: ml_collections.ConfigDict, source: Source) -> np.ndarray | None:
    """The tracks to smooth over when `source` is evaluated; None unless `config.eval.video`.

    Raises:
      ConfigError: no record of the source is known to be a frame of a video.
    """
    if not config.eval.video:
        return None
    tracks = np.asarray(source.tracks)
    if not (tracks >= 0).any():
        raise config_lib.ConfigError(
            "config.eval.video is set, but the split holds no videos: a manifest names them in a "
            "column `video`; of the prepared sets AFEW-VA, SEWA and Aff-Wild2 have them"
        )
    return tracks


def check_classes(source: Source, class_names: Sequence[str]) -> None:
    """Raises ConfigError, saying how to map them, unless the data have the model's classes."""
    if not same_classes(source.class_names, class_names):
        raise config_lib.ConfigError(
            f"the model knows the classes {tuple(class_names)}, the data have "
            f"{tuple(source.class_names)}; to map them by name, add "
            f"--config.data.classes={','.join(class_names)}"
        )
