"""Every system with a network that compiles in seconds, as changes of the quickstart.

The changes are fields of a config, so that a run in a process of its own takes the same.
"""

import ml_collections

from affect_jax import overrides
from tests.affect_jax import tiny

# Dropout differs with the number of devices; Adam would blow rounding up to the size of a step.
_OF_ALL = {
    "landmark_stage.steps": 0,
    "loss.heatmap_weight": 0.0,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.0,
    "optimizer.learning_rate": 1e-2,
}
_POSTER = {"loss.regression": "none", "model.image_width": 8}
_RESNET = {"model.name": "resnet18", "model.width": 4, "loss.regression": "none"}
_OF_ONE: dict[str, dict[str, object]] = {
    "emofan": {"loss.heatmap_weight": 1.0, "model.width": 16, "model.depth": 1}
    | {"model.stacks": 1, "model.emotion_blocks": 1},
    "fan": {"model.name": "fan", "model.width": 16, "model.depth": 1, "model.stacks": 1},
    "arbex": {"model.name": "arbex_tiny", "model.dropout": 0.0, "loss.regression": "none"},
    "poster": {"model.name": "poster_v2_tiny", "loss.regression": "none"}
    | {"optimizer.sam_rho": 0.05},
    "vit_se": {"model.name": "vit_ti16", "model.depth": 1, "model.se": True},
    "rald": _RESNET
    | {"model.relations.enabled": True, "model.relations.residual": True}
    | {"model.relations.dropout": 0.0, "model.relations.bank_size": 6},
    "classifier": _RESNET | {"loss.regression": "none"},
}
SYSTEMS = tuple(_OF_ONE)


def changes(system: str) -> dict[str, object]:
    """Dotted fields that make the quickstart a small run of `system`."""
    kept = {k: v for k, v in tiny.OVERRIDES.items() if not k.startswith("model.")}
    name = "classifier" if system == "poster" else system
    return {**kept, **_OF_ALL, "system": name, **_OF_ONE[system]}


def config(system: str, **more: object) -> ml_collections.ConfigDict:
    """The config of a small run of `system`; `more` as in `tiny.config`."""
    chosen, fields = tiny.config(), changes(system)
    if "model.name" in fields:
        overrides.choose_model(chosen, str(fields["model.name"]), keep_system=True)
    dotted = {key.replace("__", "."): value for key, value in more.items()}
    chosen.update_from_flattened_dict({**fields, **dotted})
    return chosen
