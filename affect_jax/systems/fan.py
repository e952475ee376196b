"""FAN (Bulat and Tzimiropoulos, ICCV 2017): landmarks by heatmap regression.

The landmark stage of EmoFAN as a system of its own: a detector that finds the 68 points, and the
trunk that `config.init_from` of an EmoFAN takes.
"""

import jax
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.losses import supervised
from affect_jax.models.landmarks import decode_heatmaps, grid_to_pixels, render_heatmaps
from affect_jax.systems.base import Phase, System, need_outputs


def landmark_loss(
    outputs: dict[str, jax.Array],
    batch: dict[str, jax.Array],
    *,
    config: ml_collections.ConfigDict,
    axis_name: str | None,
) -> jax.Array:
    """Heatmap regression of the landmark trunk, every stack supervised; 0 without landmarks.

    Args:
        outputs: `stack_heatmaps`, a tuple of [B, h, h, 68].
        batch: `landmarks` [B, 68, 2] in pixels of `image` [B, H, H, 3] (NaN: missing), `mask`.
        config: `loss.heatmap_sigma` in heatmap pixels.
    """
    (stacks,) = need_outputs(outputs, ("stack_heatmaps",), "heatmap_weight")
    targets, visible = render_heatmaps(
        batch["landmarks"],
        stacks[0].shape[1],
        config.loss.heatmap_sigma,
        image_size=batch["image"].shape[1],
    )
    return supervised.heatmap_loss(
        stacks, targets, visible, mask=batch.get("mask"), axis_name=axis_name
    )


def landmarks_of(
    outputs: dict[str, jax.Array], config: ml_collections.ConfigDict, image_size: int
) -> jax.Array:
    """Landmarks [B, 68, 2] in pixels of the input, read off `heatmaps` as `model.decode` says."""
    points, _ = decode_heatmaps(outputs["heatmaps"], config.model.get("decode", "quarter"))
    return grid_to_pixels(points, outputs["heatmaps"].shape[1], image_size)


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
