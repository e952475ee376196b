"""FAN (Bulat and Tzimiropoulos, ICCV 2017): landmarks by heatmap regression.

The landmark stage of EmoFAN as a system of its own: a detector that finds the 68 points, and the
trunk that `config.init_from` of an EmoFAN takes.
"""

import jax
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.systems.base import Phase, System
from affect_jax.systems.objective import landmark_loss, landmarks_of


class FANSystem(System):
    """The landmark network alone; what else the data are labelled with is left unused.

    Raises:
      ConfigError: if the data have no landmarks.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        class_names: tuple[str, ...],
        has: frozenset[str],
        class_counts: tuple[int, ...],
    ):
        if "landmarks" not in has:
            raise ConfigError(
                f"config.system = {config.system!r} is about landmarks, the data have "
                f"{sorted(has) or 'no label'}; `python -m data_pipelines.prepare --dataset list` "
                "names the data sets with landmarks"
            )
        super().__init__(config, (), frozenset({"landmarks"}), ())

    def mixes(self, phase: Phase) -> bool:
        return False

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
        loss = landmark_loss(outputs, batch, config=self.config, axis_name=axis_name)
        return loss, {"heatmap": loss}

    def predictions(self, outputs: dict[str, jax.Array], image_size: int) -> dict[str, jax.Array]:
        return {"landmarks": landmarks_of(outputs, self.config, image_size)}
