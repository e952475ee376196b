"""A model that relates images and compiles at once, and the config of a run with relations."""

import ml_collections
import numpy as np
from flax import nnx

from affect_jax import systems
from affect_jax.models.layers import Layers
from affect_jax.models.relations import BY_SETTINGS, Relations
from affect_jax.systems.base import System
from configs import base
from tests.affect_jax import tiny

CLASSES = ("anger", "happy", "sad", "fear")
FEATURES, SIDE = 6, 4
# Images relate to each other alone, so that the context changes the logits by more than rounding.
SETTINGS = {"hlrr": False, "lgifo": False, "heads": 2, "head_features": 4, "bank_size": 7}


class Pixels(nnx.Module):
    """A linear layer on pixels in place of a backbone. Images count for each other: large weights
    make the attention sharp."""

    def __init__(self, relations):
        make = Layers(nnx.Rngs(0))
        self.embed, self.head = make.linear(3 * SIDE**2, FEATURES), make.linear(FEATURES, 4)
        self.relations = Relations.of(relations, FEATURES, 4, make)
        for layer in (self.relations.images.attention.query, self.relations.images.attention.key):
            layer.kernel[...] = 20 * layer.kernel[...]

    def __call__(self, images, *, comparison=BY_SETTINGS):
        return self.classify(self.embed(images.reshape(len(images), -1)), comparison=comparison)

    def classify(self, features, *, comparison=BY_SETTINGS):
        refined, outputs = self.relations(features, comparison=comparison)
        return outputs | {"logits": self.head(refined)}


def make_system(batch_size: int = 8, **settings: object) -> System:
    """The system "rald" for four classes; its config's model is not used."""
    config = base.get_config()
    config.system, config.model = "rald", base.model("resnet18")
    config.data.image_size, config.batch_size = SIDE, batch_size
    config.model.relations.update({"enabled": True, **SETTINGS, **settings})
    return systems.create(
        config, class_names=CLASSES, has=frozenset({"expression"}), class_counts=(1,) * 4
    )


def make_model(system: System) -> Pixels:
    model = Pixels(system.relations)
    model.eval()
    return model


def make_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def make_batches(images: np.ndarray, labels: np.ndarray, size: int) -> list[dict]:
    """One pass, the last batch padded and masked."""
    batches = []
    for start in range(0, len(images), size):
        rows = np.arange(start, start + size)
        mask = rows < len(images)
        rows = np.minimum(rows, len(images) - 1)
        batches.append(
            {
                "image": images[rows],
                "expression": np.where(mask, labels[rows], -1),
                "mask": mask,
                "index": np.where(mask, rows, -1),
            }
        )
    return batches


def config(**changes: object) -> ml_collections.ConfigDict:
    """A run of `tiny.one_block` with relations."""
    made = tiny.one_block()
    seen = {key: made.model[key] for key in ("mean", "std")}
    made.model = base.model("vit_ti16", depth=1, **seen)
    made.model.relations.update({"enabled": True, **SETTINGS})
    made.system, made.loss.regression = "rald", "none"
    made.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return made
