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
from affect_jax.losses import supervised as losses
from affect_jax.metrics.reliability import ReliabilityStatistics
from affect_jax.models import state
from affect_jax.models.layers import BatchNorm
from affect_jax.models.reliability import SETTINGS, settings_of
from affect_jax.models.state import take_apart
from affect_jax.systems.arbex import check_loss
from data_pipelines.schema import LABELS

log = logging.getLogger(__name__)

# Fields of config.model that are not constructor arguments.
_NOT_ARGUMENTS = ("name", "train_trunk", "mean", "std")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the run in which the same parameters are trained by the same objective.

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


class System:
    """A model and its objective.

    Args:
      config: the whole configuration.
      class_names: expression classes of the data, in the order of their ids.
      has: label fields that the data has ("expression", "valence_arousal", "landmarks").
      class_counts: training examples of each class, for class weights.

    Attributes:
      has: label fields to learn and measure by.
      balancing: settings of the model's `Reliability` where they are not its defaults; None if the
        model has no such part.

    Raises:
      ConfigError: for settings that cannot work.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        class_names: tuple[str, ...],
        has: frozenset[str],
        class_counts: tuple[int, ...],
    ):
        self.config = config
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.has = has
        self.class_counts = class_counts
        if not 0 <= config.loss.label_smoothing < 1:
            raise ConfigError(
                f"config.loss.label_smoothing = {config.loss.label_smoothing}: it is the share of "
                "a label that goes to all classes alike, at least 0 and below 1"
            )
        self.class_weights = losses.parse_class_weights(config.loss.class_weights, class_counts)
        check_loss(config.loss.reliability)
        self.balancing = self._balancing()

    def _balancing(self) -> dict[str, Any] | None:
        """The settings of `config.model.reliability`, or of the model itself without that field."""
        section = self.config.model.to_dict()
        if "reliability" in section:
            given = section["reliability"]
        else:
            given = models.default(self.config.model.name, "reliability")
        try:
            settings = settings_of(given)
        except ValueError as error:
            raise ConfigError(f"config.model.{error}") from None
        if settings and settings.get("correction") == "trust" and not settings.get("ramp_steps"):
            if not self.config.num_steps:
                raise ConfigError(
                    'config.model.reliability.correction = "trust" is ramped in over the run where '
                    "ramp_steps is 0; set config.num_steps to its length, or ramp_steps"
                )
            steps = self.config.num_steps
            settings["ramp_steps"] = steps - self.first_steps(steps)
        return settings

    @property
    def supervised(self) -> frozenset[str]:
        """Label fields that the loss trains: what a checkpoint may be chosen by."""
        return self.has & LABELS

    @property
    def known(self) -> frozenset[str]:
        """Label fields whose outputs mean something: `supervised`, and what was learnt before and
        stays as it is. A model teaches, and is measured by, nothing else."""
        return self.supervised

    def model_arguments(self) -> dict[str, Any]:
        """Constructor arguments of the model, JSON-able."""
        section = self.config.model.to_dict()
        for part in ("se", "reliability"):  # not every model can have them
            off = section.get(part) in (None, False)
            if off and not models.takes(self.config.model.name, part):
                section.pop(part, None)
        arguments = {k: v for k, v in section.items() if k not in _NOT_ARGUMENTS}
        if self.balancing is not None:
            arguments["reliability"] = self.balancing
        if models.takes(self.config.model.name, "image_size"):
            arguments.setdefault("image_size", self.config.data.image_size)
        return arguments

    def create_model(self, rngs: nnx.Rngs, axis_name: str | None) -> nnx.Module:
        """The model with fresh parameters, in evaluation mode.

        Raises:
          ConfigError: if config.model does not describe a model.
        """
        arguments = self.model_arguments()
        self._tell_departures(arguments)
        size = self.config.data.image_size
        try:
            arguments["dtype"] = jnp.dtype(arguments["dtype"])
            model = models.create(
                self.config.model.name, **arguments, axis_name=axis_name, rngs=rngs
            )
            model.eval()
            # Traced once without computing: an image size that cannot work is found here.
            jax.eval_shape(model, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.model (with data.image_size = {size}): {error}") from None
        self._check_freeze(model)
        return model

    def _tell_departures(self, arguments: dict[str, Any]) -> None:
        """Names what the config sets otherwise than the model's name stands for."""
        name, given = self.config.model.name, flatten(arguments)
        preset = flatten(models.entry(name).preset) if name in models.names() else {}
        departures = [
            f"{key} = {given[key]!r}, not {value!r}"
            for key, value in preset.items()
            if key in given and _as_tuple(given[key]) != _as_tuple(value)
        ]
        if departures:
            log.info("config.model is not all of %s: %s", name, "; ".join(departures))

    def _check_freeze(self, model: nnx.Module) -> None:
        paths = list(take_apart(model)[1])
        for pattern in self.config.optimizer.freeze:
            if not any(state.matches((pattern,), path) for path in paths):
                raise ConfigError(
                    f"config.optimizer.freeze: no parameter starts with {pattern!r}; "
                    + nearest(pattern, paths)
                )

    def first_steps(self, total_steps: int) -> int:
        """Steps of a run of `total_steps` before the phase in which its classes are trained."""
        return 0

    def phases(self, total_steps: int) -> list[Phase]:
        """Phases of a run of `total_steps` in order; the first starts at step 0."""
        return [Phase("train", 0)]

    def trainable(self, path: str, phase: Phase) -> bool:
        """Whether the parameter at `path` is trained in `phase`."""
        return not state.matches(self.config.optimizer.freeze, path)

    def set_train_mode(self, model: nnx.Module, phase: Phase) -> None:
        """Puts the parts that train into training mode.

        A BatchNorm whose parameters `optimizer.freeze` matches keeps its statistics too.
        """
        model.train()
        for path, module in nnx.iter_modules(model):
            name = "/".join(map(str, (*path, "scale")))
            if isinstance(module, BatchNorm) and state.matches(self.config.optimizer.freeze, name):
                module.eval()

    def mixes(self, phase: Phase) -> bool:
        """Whether `config.mixing` holds in `phase`; not where landmarks are all that is learnt."""
        return True

    def forward(
        self, model: nnx.Module, images: jax.Array, phase: Phase, rngs: nnx.Rngs
    ) -> dict[str, jax.Array]:
        """The training forward pass."""
        return model(images, rngs=rngs)

    def loss(
        self,
        outputs: dict[str, jax.Array],
        batch: dict[str, jax.Array],
        *,
        key: jax.Array,
        axis_name: str | None,
        phase: Phase,
        teacher: dict[str, jax.Array] | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of the global batch and its named terms, equal on all replicas."""
        raise NotImplementedError

    def predictions(self, outputs: dict[str, jax.Array], image_size: int) -> dict[str, jax.Array]:
        """Per-example arrays that metrics and the report use: logits, valence, arousal,
        landmarks (pixels of the input); of a model with reliability balancing what
        `metrics_reliability` takes."""
        names = ("logits", "primary", "corrected") if "expression" in self.known else ()
        if "valence_arousal" in self.known:
            names += ("valence", "arousal")
        kept = {k: outputs[k] for k in names if k in outputs}
        if "primary" in kept and "anchor_distances" in outputs:
            flat = outputs["anchor_distances"].reshape(len(kept["primary"]), -1)
            kept["nearest_anchor"] = jnp.argmin(flat, axis=1)
        return kept

    def extra_metrics(self, min_count: int) -> list[Any]:
        """Fresh accumulators beside those that the labels of the data ask for."""
        if self.balancing is None or "expression" not in self.known:
            return []
        anchors = (SETTINGS | self.balancing)["anchors"]
        return [ReliabilityStatistics(self.num_classes, anchors, min_count)]


def _as_tuple(value: Any) -> Any:
    """A tuple in place of a list, which it is in a config that was read from a file."""
    return tuple(value) if isinstance(value, list) else value
