"""FAN (Bulat and Tzimiropoulos, ICCV 2017): landmarks by heatmap regression.

Parts: stacked hourglasses (`models.fan`), one heatmap per landmark.
Objective: mean squared error to Gaussians at the landmarks, every stack supervised.

The landmark stage of EmoFAN as a system of its own: a detector of the 68 points, and the trunk that
`config.init_from` of an EmoFAN takes.
"""

import jax
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.systems.base import Labels, Phase, System
from affect_jax.systems.objective import Arrays, LossInputs, Terms, landmark_loss


class FANSystem(System):
    """The landmark network alone; other labels of the data are not used.

    Raises:
      ConfigError: the data have no landmarks.
    """

    def __init__(self, config: ml_collections.ConfigDict, labels: Labels):
        if "landmarks" not in labels.has:
            raise ConfigError(
                f"config.system = {config.system!r} learns landmarks, but the data have "
                f"{sorted(labels.has) or 'no label'}; `python -m data_pipelines.prepare --dataset "
                "list` names the data sets with landmarks"
            )
        super().__init__(config, Labels(frozenset({"landmarks"})))

    def mixes(self, phase: Phase) -> bool:
        return False

    def loss(self, inputs: LossInputs, phase: Phase) -> tuple[jax.Array, Terms]:
        loss = landmark_loss(inputs, self.config.loss)
        return loss, {"heatmap": loss}

    def predictions(self, outputs: Arrays, image_size: int) -> Arrays:
        return {"landmarks": self.landmarks(outputs, image_size)}
