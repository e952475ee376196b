"""What the training loop needs to know of a published system."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from affect_jax import models
from affect_jax.config import ConfigError, flatten
from affect_jax.errors import nearest
from affect_jax.losses import supervised
from affect_jax.metrics.base import BatchStatistics
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.metrics.reliability import ReliabilityStatistics
from affect_jax.models import relations_settings, reliability_settings, state
from affect_jax.models.landmarks import decode_heatmaps, grid_to_pixels
from affect_jax.models.layers import BatchNorm
from affect_jax.models.recompute import POLICIES
from affect_jax.models.relations import Comparison
from affect_jax.models.state import take_apart
from affect_jax.systems import objective
from affect_jax.systems.objective import Arrays, LossInputs, Terms
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import LABELS

log = logging.getLogger(__name__)

# Fields of config.model that are not constructor arguments.
_NOT_ARGUMENTS = ("name", "train_trunk", "mean", "std", "hierarchy", "relations", "reliability")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the run in which one objective trains the same parameters.

    Attributes:
      name: shown in the log.
      start: first step of the phase.
      learning_rate: replaces the optimizer's own; None keeps it.
      synthetic: trained on the embedded synthetic faces instead of the run's own data.
    """

    name: str
    start: int
    learning_rate: float | None = None
    synthetic: bool = False


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of the training data, and the kind of their input.

    Attributes:
      has: label fields ("expression", "valence_arousal", "landmarks").
      class_names: expression classes, in the order of their ids.
      class_counts: training examples of each class, for class weights.
      hierarchy: the tree over the classes, in the order of their ids; None: none.
      n_features: numbers of a feature vector; 0: the data are images.
    """

    has: frozenset[str]
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    hierarchy: Hierarchy | None = None
    n_features: int = 0


class System:
    """A model and its objective.

    A system says in its docstring which parts and equations of its paper it has, and defines
    `loss`. It may also narrow the labels (`__init__`) and set phases, forward pass and predictions.

    Attributes:
      labels: of the training data, as far as the system learns them.
      has: label fields to learn and measure by.
      hierarchy: the tree over the classes; None: none.
      balancing: settings of the model's `Reliability`; None: no balancing.
      relations: settings of the model's `Relations`; None: no relations.

    Raises:
      ConfigError: settings that cannot work.
    """

    def __init__(self, config: ml_collections.ConfigDict, labels: Labels):
        self.config, self.labels = config, labels
        self.has, self.hierarchy = labels.has, labels.hierarchy
        self.class_names, self.num_classes = labels.class_names, len(labels.class_names)
        objective.check(config.loss)
        self.class_weights = supervised.parse_class_weights(
            config.loss.class_weights, labels.class_counts
        )
        self.relations = self._relations()
        self.balancing = self._balancing()

    def _relations(self) -> dict[str, Any] | None:
        section = self.config.model.to_dict()
        if "relations" not in section:
            return None
        nodes = None
        if self.hierarchy is not None and section["hierarchy"]:  # else it is for the metrics alone
            nodes = self.hierarchy.to_plain()
        try:
            settings = relations_settings.from_section(section["relations"], nodes)
        except ValueError as error:
            raise ConfigError(f"config.model.{error}") from None
        others, neighbours = self.config.batch_size - 1, self.config.loss.relations.neighbours
        if settings is not None and settings["nnldl"] and others < neighbours:
            log.warning(
                "a prediction is drawn to %d neighbours (config.loss.relations.neighbours), but a "
                "batch has %d other images; raise config.batch_size",
                neighbours,
                others,
            )
        return settings

    def _balancing(self) -> dict[str, Any] | None:
        section, num_steps = self.config.model.to_dict(), self.config.num_steps
        if "reliability" in section:
            try:
                settings = reliability_settings.from_section(section["reliability"])
            except ValueError as error:
                raise ConfigError(f"config.model.{error}") from None
        else:
            settings = models.default(section["name"], "reliability")
        if not settings or settings.get("correction") != "trust" or settings.get("ramp_steps"):
            return settings
        if not num_steps:
            raise ConfigError(
                'config.model.reliability.correction = "trust" with ramp_steps = 0 needs the '
                "length of the run; set config.num_steps, or ramp_steps"
            )
        return {**settings, "ramp_steps": num_steps - self.first_steps(num_steps)}

    # ---------------------------------------------------------------- objective

    def loss(self, inputs: LossInputs, phase: Phase) -> tuple[jax.Array, Terms]:
        """Return the loss of the global batch and its named terms, equal on all replicas."""
        raise NotImplementedError

    def forward(
        self,
        model: nnx.Module,
        images: jax.Array,
        phase: Phase,
        rngs: nnx.Rngs,
        mask: jax.Array | None = None,
    ) -> Arrays:
        """Return the training outputs for normalised images [B, H, W, 3].

        `mask`, bool [B], is False for padding, which relations between images leave out.
        """
        return model(images, rngs=rngs, **self.compared(mask))

    def compared(self, mask: jax.Array | None, context: str | None = None) -> dict[str, Comparison]:
        """Return the argument by which a model with relations leaves padding out.

        In prediction `context` replaces the model's own.
        """
        return {} if self.relations is None else {"comparison": Comparison(mask, context)}

    @property
    def supervised(self) -> frozenset[str]:
        """Label fields that the loss trains: what a checkpoint may be chosen by."""
        return self.has & LABELS

    @property
    def known(self) -> frozenset[str]:
        """Label fields whose outputs mean something.

        These are the `supervised` fields, and fields that were learnt before and are frozen now. A
        model teaches only these, and is measured only by these.
        """
        return self.supervised

    # -------------------------------------------------------------------- model

    def model_arguments(self) -> dict[str, Any]:
        """Return the constructor arguments of the model, JSON-able."""
        name, section = self.config.model.name, self.config.model.to_dict()
        arguments = {k: v for k, v in section.items() if k not in _NOT_ARGUMENTS}
        if models.takes(name, "reliability") or self.balancing is not None:
            arguments["reliability"] = self.balancing
        if models.takes(name, "relations") or self.relations is not None:
            arguments["relations"] = self.relations
        if not models.takes(name, "remat"):
            arguments.pop("remat", None)  # the train step acts on it
        if models.takes(name, "n_expression"):
            arguments["n_expression"] = self.num_classes if "expression" in self.has else 0
        if models.takes(name, "n_features"):
            arguments["n_features"] = self.labels.n_features
        if models.takes(name, "image_size"):
            arguments.setdefault("image_size", self.config.data.image_size)
        return arguments

    def create_model(self, rngs: nnx.Rngs, axis_name: str | None) -> nnx.Module:
        """Return the model with fresh parameters, in evaluation mode.

        Raises:
          ConfigError: config.model does not describe a model.
        """
        self._check_input()
        self._check_remat()
        arguments = self.model_arguments()
        self._log_departures(arguments)
        size = self.config.data.image_size
        try:
            model = models.create(
                self.config.model.name, **arguments, axis_name=axis_name, rngs=rngs
            )
            model.eval()
            # Traced once without computing: an image size that cannot work is found here.
            shape = models.input_shape(model, size)
            graphdef, arrays = nnx.split(model)
            jax.eval_shape(
                lambda images: nnx.merge(graphdef, arrays, copy=True)(images),
                jax.ShapeDtypeStruct((1, *shape), jnp.float32),
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.model (with data.image_size = {size}): {error}") from None
        self._check_freeze(model)
        return model

    def _check_input(self) -> None:
        """Raise ConfigError for a model of images on features, or the reverse."""
        name, n_features = self.config.model.name, self.labels.n_features
        takes_features = models.takes(name, "n_features")
        if takes_features and not n_features:
            raise ConfigError(
                f"config.model.name = {name!r} takes stored features, and the data are images; "
                "give --config.data.features, or another model"
            )
        if n_features and not takes_features:
            raise ConfigError(
                f"config.model.name = {name!r} takes images, and the data are vectors of "
                f"{n_features} features; set --config.model.name=features, or another data.source"
            )

    def _check_remat(self) -> None:
        """Raise ConfigError for a policy that does not exist, or not for this model."""
        name, policy = self.config.model.name, self.config.model.get("remat", "none")
        known = [p for p in POLICIES if p != "blocks" or models.takes(name, "remat")]
        if policy not in known:
            raise ConfigError(f"config.model.remat = {policy!r}; {name} has {', '.join(known)}")

    def _log_departures(self, arguments: dict[str, Any]) -> None:
        """Log the fields in which the config differs from the preset of the model."""
        name, given = self.config.model.name, flatten(arguments)
        preset = flatten(models.entry(name).preset) if name in models.names() else {}
        departures = [
            f"{key} = {given[key]!r}, not {value!r}"
            for key, value in preset.items()
            if key in given and _as_tuple(given[key]) != _as_tuple(value)
        ]
        if departures:
            log.info("config.model differs from the preset %s: %s", name, "; ".join(departures))

    def _check_freeze(self, model: nnx.Module) -> None:
        paths = list(take_apart(model)[1])
        for pattern in self.config.optimizer.freeze:
            if not any(state.matches((pattern,), path) for path in paths):
                raise ConfigError(
                    f"config.optimizer.freeze: no parameter starts with {pattern!r}; "
                    + nearest(pattern, paths)
                )

    # ------------------------------------------------------------------- phases

    def first_steps(self, total_steps: int) -> int:
        """Return how many steps of a run come before the phase that trains the classes."""
        return 0

    def phases(self, total_steps: int) -> list[Phase]:
        """Return the phases of a run in order; the first starts at step 0."""
        return [Phase("train", 0)]

    def trainable(self, path: str, phase: Phase) -> bool:
        """Return whether the parameter at `path` is trained in `phase`."""
        return not state.matches(self.config.optimizer.freeze, path)

    def set_train_mode(self, model: nnx.Module, phase: Phase) -> None:
        """Put the parts that train into training mode.

        A BatchNorm whose parameters `optimizer.freeze` matches keeps its statistics too.
        """
        model.train()
        for path, module in nnx.iter_modules(model):
            name = "/".join(map(str, (*path, "scale")))
            if isinstance(module, BatchNorm) and state.matches(self.config.optimizer.freeze, name):
                module.eval()

    def mixes(self, phase: Phase) -> bool:
        """Return whether `config.mixing` acts in `phase`."""
        return True

    # -------------------------------------------------------------- measurement

    def predictions(self, outputs: Arrays, image_size: int) -> Arrays:
        """Return per-example arrays that metrics and the report use.

        They are logits, valence, arousal and landmarks (pixels of the input). A model with
        reliability balancing adds the arrays that `metrics.reliability` takes, a model that relates
        images `image_features`, from which other contexts are evaluated.
        """
        names = ["logits", "primary", "corrected"] if "expression" in self.known else []
        if "valence_arousal" in self.known:
            names += ["valence", "arousal"]
        if "relation_weights" in outputs:
            names.append("image_features")
        kept = {k: outputs[k] for k in names if k in outputs}
        if "primary" in kept and "anchor_distances" in outputs:
            flat = outputs["anchor_distances"].reshape(len(kept["primary"]), -1)
            kept["nearest_anchor"] = jnp.argmin(flat, axis=1)
        return kept

    def landmarks(self, outputs: Arrays, image_size: int) -> jax.Array:
        """Return landmarks [B, 68, 2] in pixels of the input, decoded from `heatmaps`."""
        heatmaps = outputs["heatmaps"]
        points, _ = decode_heatmaps(heatmaps, self.config.model.get("decode", "quarter"))
        return grid_to_pixels(points, heatmaps.shape[1], image_size)

    def extra_metrics(self, min_count: int) -> list[BatchStatistics]:
        """Return fresh accumulators that the labels of the data alone do not ask for."""
        found: list[BatchStatistics] = []
        if "expression" not in self.known:
            return found
        if self.hierarchy is not None:
            found.append(HierarchyStatistics(self.hierarchy, min_count))
        if self.balancing is not None:
            anchors = reliability_settings.parse(self.balancing).anchors
            found.append(ReliabilityStatistics(self.num_classes, anchors, min_count))
        return found


def _as_tuple(value: Any) -> Any:
    """Return a tuple in place of a list, as a config read from a file has it."""
    return tuple(value) if isinstance(value, list) else value
