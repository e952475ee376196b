"""One pass over a split: exact metrics, and the predictions behind them.

Metrics come from sufficient statistics of all unmasked examples: they do not depend on the batch
size or on the number of devices and processes.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import batches as data_lib
from affect_jax import models
from affect_jax.config import ConfigError
from affect_jax.evaluation import contexts, smoothing, validity
from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.mixtures import MixtureStatistics
from affect_jax.metrics.names import names_of
from affect_jax.models.preprocessing import normalise
from affect_jax.models.relations import Bank
from affect_jax.models.state import Blueprint
from affect_jax.runtime.parallel import Mapper, all_gather_hosts, is_main_process
from affect_jax.systems.base import System
from affect_jax.systems.objective import Arrays
from data_pipelines.schema import Source, same_classes

Predictions = dict[str, np.ndarray]
_LABELS = ("expression", "valence_arousal", "landmarks")
# Label fields whose predictions are averaged: over mirror images, and over frames.
FLIPPED = ("valence_arousal",)
SMOOTHED = ("expression", "valence_arousal")


def make_eval_step(
    system: System,
    blueprint: Blueprint,
    image_size: int,
    *,
    flip: bool,
    context: str | None = None,
) -> Callable[[dict, dict], Arrays]:
    """Return the per-replica evaluation step: (state, batch) -> per-example arrays.

    `System.predictions` lists the arrays. With `flip`, valence and arousal of the mirrored
    image are added as `mirrored_valence` and `mirrored_arousal`, and with `config.eval.calibrate`
    its `mirrored_logits`. `context` replaces the one of a model that relates images.
    """
    section = system.config.model
    twice = ("valence", "arousal", *(("logits",) if system.config.eval.calibrate else ()))

    def predict(model: nnx.Module, images: jax.Array, mask: jax.Array) -> Arrays:
        inputs = normalise(images, section.mean, section.std)
        return system.predictions(model(inputs, **system.compared(mask, context)), image_size)

    def step(state: dict, batch: dict) -> Arrays:
        arrays = state.get("ema", state)
        model = blueprint.build(arrays["params"], arrays["stats"])
        outputs = predict(model, batch["image"], batch["mask"])
        again = [name for name in twice if flip and name in outputs]
        if again:
            mirrored = predict(model, batch["image"][:, :, ::-1], batch["mask"])
            outputs |= {f"mirrored_{name}": mirrored[name] for name in again}
        return outputs

    return step


def flip_averaged(predictions: Predictions) -> Predictions:
    """Return valence and arousal averaged over mirror images, within [-1, 1]."""
    averaged = dict(predictions)
    for name in ("valence", "arousal"):
        mean = (predictions[name] + predictions[f"mirrored_{name}"]) / 2
        averaged[name] = np.clip(mean, -1.0, 1.0)
    return averaged


@dataclasses.dataclass
class Evaluation:
    """Result of one pass.

    Attributes:
      metrics: name -> value, of the plain pass. Examples whose predictions are not finite count as
        wrong, make regression figures NaN and are counted as `invalid_predictions`.
      flip: figures of valence and arousal averaged over image and mirror image; None without the
        mirrored pass.
      video: figures of logits, valence and arousal averaged over the last frames of each video
        (`smoothing.smooth`); None unless asked for.
      contexts: figures by context, see `Evaluator.in_contexts`.
      images: readable examples, of all processes.
      predictions: per-example arrays with labels and `index`, of all processes; empty unless asked
        for.
    """

    metrics: dict[str, float]
    flip: dict[str, float] | None = None
    video: dict[str, float] | None = None
    contexts: Mapping[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    predictions: Predictions = dataclasses.field(default_factory=dict)
    images: int = 0

    def of_split(self, split: str) -> dict[str, dict[str, float]]:
        """Return the figures by row name: SPLIT, SPLIT_flip, SPLIT_video, SPLIT_CONTEXT."""
        found = {split: self.metrics, f"{split}_flip": self.flip, f"{split}_video": self.video}
        found |= {f"{split}_{context}": figures for context, figures in self.contexts.items()}
        return {name: figures for name, figures in found.items() if figures is not None}


def with_loss(metrics: dict[str, float], supervised: Iterable[str]) -> dict[str, float]:
    """Return the metrics of a split with `loss`, for model selection, in front.

    The loss sums the negative log-likelihood, 1 - the mean CCC of valence and arousal, and the
    NME, for the labels that the run learns (`System.supervised`) and the split has. Without any of
    them there is no `loss`.
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

    A model whose context is "batch" is measured in the first of the fixed shuffles, see
    `evaluation.contexts`. Its images have no mirrored pass.

    Args:
      system: the system that the model belongs to.
      mapper: maps the step over the devices.
      blueprint: of the model in evaluation mode.
      flip: add the mirrored pass.
      min_count: classes with fewer true examples are left out of macro scores.

    Attributes:
      bank_size: images in the model's bank; 0: it has none.
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
        self._system, self._mapper = system, mapper
        relations = contexts.image_relations(system)
        self._classifier = contexts.FeatureClassifier(system, blueprint) if relations else None
        self.bank_size = relations.bank_size if relations else 0
        self._by_batch = None
        if relations is not None and relations.context == "batch":
            self._by_batch = self._classifier
        # Features have no mirror image.
        self._flip = flip and self._by_batch is None and not system.labels.n_features
        self._min_count = min_count
        step = make_eval_step(
            system,
            blueprint,
            system.config.data.image_size,
            flip=self._flip,
            context=None if self._by_batch is None else "self",
        )
        self._step = mapper.map(step, sharded_output=True)

    def metric_names(self, has: Collection[str] | None = None) -> set[str]:
        """Return the names that `run` will measure, known before any image is read.

        Args:
          has: label fields of the split; default: all fields of the training data.
        """
        system = self._system
        fields = system.has if has is None else frozenset(has)
        # Enough examples of every class for each figure to exist.
        count = max(self._min_count, 2)
        votes = "expression_probs" in fields
        names = names_of(self._all_metrics(fields), system.num_classes, count, votes=votes)
        return names if system.supervised & fields else names - {"loss"}

    def run(
        self,
        state: dict[str, Any],
        batches: Iterable[dict],
        *,
        keep_predictions: bool = False,
        tracks: np.ndarray | None = None,
    ) -> Evaluation:
        """Run over `batches` (this process's part of every batch, padded and masked).

        Args:
          state: placed on the devices; `params` or `ema`, and `stats` are read.
          batches: one pass over a split.
          keep_predictions: also return the per-example arrays.
          tracks: int [n], the video of each record of the split (see `schema.Source`): also measure
            with smoothing over the frames of a video.
        """
        plain, flipped = self._all_metrics(self._system.has), self._metrics(FLIPPED)
        kept: list[Predictions] = []
        invalid, images = validity.InvalidPredictions(), 0
        describe = getattr(batches, "describe", None)
        by_batch = self._by_batch
        for host_batch, outputs in self._outputs(state, batches):
            if by_batch is None:
                plain.update(outputs, host_batch)
                invalid.add(outputs, host_batch)
            images += int(np.count_nonzero(host_batch["mask"]))
            if "mirrored_valence" in outputs:
                flipped.update(flip_averaged(outputs), host_batch)
            if keep_predictions or tracks is not None or by_batch is not None:
                kept.append(_with_labels(outputs, host_batch))
        # Joined over processes: the frames of a video and of a batch are spread over them.
        joined = _join(kept) if kept else {}
        if by_batch is not None:
            joined = by_batch.classified(state, joined, "batch", shuffle=0)
            result = Evaluation(self._figures(joined, describe))
        else:
            result = Evaluation(with_loss(_of_all_processes(plain), self._system.supervised))
            result.metrics |= invalid.count(describe)
        result.images = int(all_gather_hosts(np.array([images], np.float64)).sum())
        if self._flip and {"valence_ccc", "arousal_ccc"} & result.metrics.keys():
            result.flip = _of_all_processes(flipped)
        if tracks is not None:
            smoothed = smoothing.smooth_predictions(joined, tracks)
            smoothed_metrics = self._metrics(SMOOTHED).update(smoothed, _labels_of(smoothed))
            result.video = smoothed_metrics.compute() or None
        if keep_predictions:
            result.predictions = joined
        return result

    def _outputs(
        self, state: dict[str, Any], batches: Iterable[dict]
    ) -> Iterator[tuple[dict[str, np.ndarray], Predictions]]:
        """Yield the host batches of a pass with this process's rows of their outputs."""
        view = {k: state[k] for k in ("params", "stats", "ema") if k in state}
        for host_batch, batch in self._mapper.prefetch(batches):
            yield host_batch, self._mapper.local_rows(self._step(view, batch))

    def features(self, state: dict[str, Any], batches: Iterable[dict]) -> np.ndarray:
        """Return the backbone's features of all unmasked images, float32 [n, D].

        They are ordered by index and equal on all processes.

        Args:
          state: of a model that relates images, as in `run`.
          batches: as in `run`; of the same shapes, so that nothing is compiled.
        """
        names = ("index", "mask")
        kept = [
            {"image_features": outputs["image_features"], **{k: batch[k] for k in names}}
            for batch, outputs in self._outputs(state, batches)
        ]
        return _join(kept)["image_features"]

    def in_contexts(
        self,
        state: dict[str, Any],
        predictions: Predictions,
        banks: Mapping[int, Bank] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return the metrics of `run` by what images are compared with.

        They are `self`, `bank` (unless the model's is empty), `batch`, with the mean and standard
        deviation over the fixed shuffles, and `bankM` for every other bank. Empty for a model that
        does not relate images. The features of the pass are used again.

        Args:
          state: as in `run`.
          predictions: of the pass.
          banks: size M -> bank.
        """
        if self._classifier is None:
            return {}
        return self._classifier.in_contexts(state, predictions, banks or {}, self._figures)

    def _figures(
        self, predictions: Predictions, describe: Callable[[int], str] | None = None
    ) -> dict[str, float]:
        """Return the metrics of predictions that every process has whole."""
        labels = _labels_of(predictions)
        metrics = self._all_metrics(self._system.has).update(predictions, labels)
        invalid = validity.InvalidPredictions()
        if is_main_process():
            # A label that the model does not predict has the name of the output.
            given = {k for k in _LABELS if f"true_{k}" not in predictions}
            outputs = {k: v for k, v in predictions.items() if k not in given}
            rows = {"index": predictions["index"], "mask": np.ones(len(predictions["index"]), bool)}
            invalid.add(outputs, rows)
        return with_loss(metrics.compute(), self._system.supervised) | invalid.count(describe)

    def _metrics(self, fields: Collection[str]) -> MetricSet:
        """Return empty metrics of the label `fields` that the system has and knows."""
        system = self._system
        return MetricSet(
            has=(system.has & system.known).intersection(fields),
            num_classes=system.num_classes,
            class_names=system.class_names,
            min_count=self._min_count,
        )

    def _all_metrics(self, fields: Collection[str]) -> MetricSet:
        """Return the same, and where there are classes all further metrics of them.

        These are metrics of mixtures, for splits that have them, and the system's own.
        """
        metrics = self._metrics(fields)
        if metrics.classification is not None:
            metrics.extra.append(MixtureStatistics())
            metrics.extra.extend(self._system.extra_metrics(self._min_count))
        return metrics


def _of_all_processes(local: MetricSet) -> dict[str, float]:
    first, *others = (local.from_array(row) for row in all_gather_hosts(local.to_array()))
    for other in others:
        first.merge(other)
    return first.compute()


def _with_labels(outputs: Predictions, batch: dict[str, np.ndarray]) -> Predictions:
    names = ("index", "mask", *_LABELS, "expression_probs", "group", "attributes")
    return {
        **outputs,
        **{f"true_{k}" if k in outputs else k: batch[k] for k in names if k in batch},
    }


def _labels_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return labels by their own names of what `_with_labels` gave."""
    own = {k.removeprefix("true_"): v for k, v in predictions.items() if k.startswith("true_")}
    return {**predictions, **own}


def _join(parts: list[Predictions]) -> Predictions:
    """Return the rows of all batches and processes without padding, ordered by index."""
    local = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    joined = {}
    for name, array in local.items():
        gathered = all_gather_hosts(array.astype(np.float64))
        joined[name] = gathered.reshape(-1, *array.shape[1:]).astype(array.dtype)
    keep = np.flatnonzero(joined.pop("mask"))
    order = keep[np.argsort(joined["index"][keep], kind="stable")]
    return {k: v[order] for k, v in joined.items()}


def tracks_to_smooth(config: ml_collections.ConfigDict, source: Source) -> np.ndarray | None:
    """Return the tracks of `source` to smooth over; None unless `config.eval.video`.

    Raises:
      ConfigError: no record of the source is known to be a frame of a video.
    """
    if not config.eval.video:
        return None
    tracks = np.asarray(source.tracks)
    if not (tracks >= 0).any():
        raise ConfigError(
            "config.eval.video is set, but the split holds no videos: a manifest names them in a "
            "column `video`; of the prepared sets AFEW-VA, SEWA and Aff-Wild2 have them"
        )
    return tracks


def check_input(source: Source, model: nnx.Module) -> None:
    """Raise ConfigError unless the data are of the kind and size that the model takes."""
    given, wanted = data_lib.n_features(source), models.n_features(model)
    if given != wanted:
        data, model_input = (f"vectors of {n} features" if n else "images" for n in (given, wanted))
        raise ConfigError(
            f"the model takes {model_input}, and the data are {data}; give other data, or features "
            "that were extracted with the same network"
        )


def check_classes(source: Source, class_names: Sequence[str]) -> None:
    """Raise ConfigError unless the data have the model's classes."""
    if not same_classes(source.class_names, class_names):
        raise ConfigError(
            f"the model knows the classes {tuple(class_names)}, the data have "
            f"{tuple(source.class_names)}; to map them by name, add "
            f"--config.data.classes={','.join(class_names)}"
        )
