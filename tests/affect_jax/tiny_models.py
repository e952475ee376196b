"""Every system as a model directory in a few seconds: networks for 32 pixels, with random weights
and statistics, three classes, and a bank where images are compared with one."""

import functools
import pathlib

import jax
import numpy as np

from affect_jax import models
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights import model_dir
from affect_jax.weights.model_dir import LoadedModel

SIDE = 32
NAMES = ("happy", "sad", "anger")
TRUNK = {"width": 16, "depth": 1, "landmarks": 68}
POSTER = {"input_size": 16, "image_width": 4, "image_stages": (1, 1, 1), "landmark_width": 2,
          "landmark_stages": (0, 0, 0), "dims": (2, 4, 8), "windows": (4, 2, 1),
          "heads": (1, 2, 2), "embedding": 16, "vit_depth": 1}  # fmt: skip
RELATIONS = {"bank_size": 5, "heads": 2, "head_features": 4, "label_features": 8}
# System -> model and arguments.
SYSTEMS = {
    "emofan": ("emofan", {**TRUNK, "stacks": 1, "emotion_blocks": 1, "n_expression": 3}),
    "fan": ("fan", {**TRUNK, "stacks": 2}),
    "arbex": ("arbex", {"n_expression": 3, "hidden": (8,), "backbone": POSTER}),
    "poster": ("poster_v2", {**POSTER, "n_expression": 3, "regression": True}),
    "vit_se": ("vit_ti16", {"depth": 1, "image_size": SIDE, "n_expression": 3, "se": True}),
    "resnet": ("resnet18", {"width": 4, "n_expression": 3}),
    "rald": ("resnet18", {"width": 4, "n_expression": 3, "relations": RELATIONS}),
    "features": ("features", {"n_features": 12, "n_expression": 3, "regression": True}),
}


def make(name, arguments, provenance=None, class_names=None, **seen):
    """A model with random weights and statistics, as it comes out of a directory."""
    model = models.create(name, **arguments)
    random = np.random.default_rng(0)

    def drawn(path, value):
        leaf = path[-1].key.rpartition("/")[2]
        if leaf == "bank_labels":
            return np.arange(value.size) % len(NAMES)
        if leaf == "label_vectors" or value.dtype != np.float32:
            return value
        if path[0].key == "stats":
            return random.uniform(0.5, 1.5, value.shape)
        return value + 0.02 * random.normal(size=value.shape)

    arrays = jax.tree_util.tree_map_with_path(drawn, model_dir.arrays_of(model))
    model_dir.assign(model, arrays)
    model.eval()
    if class_names is None:
        class_names = NAMES if "n_expression" in arguments else ()
    known = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)} | seen
    preprocessing = Preprocessing(SIDE, **known)
    return LoadedModel(model, name, dict(arguments), preprocessing, class_names, provenance or {})


@functools.cache
def loaded(system):
    """The model of a system; shared, not to be changed."""
    return make(*SYSTEMS[system])


def save(model: LoadedModel, folder: pathlib.Path) -> pathlib.Path:
    """Write a model directory; return it."""
    model_dir.save_model(
        folder,
        model.name,
        model.arguments,
        model.model,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        provenance=model.provenance,
        temperature=model.temperature,
    )
    return folder


def batch(system, count=4, seed=1):
    """An input of a system: noise, uint8 images or float32 features."""
    random = np.random.default_rng(seed)
    if system == "features":
        return random.normal(size=(count, 12)).astype(np.float32)
    return random.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
