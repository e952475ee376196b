"""`benchmark infer`: what relations between images and labels add to inference.

The forward pass of a config in evaluation mode is timed in turn with that of the same model without
`model.relations`, on a batch already on one device. Each context (`bank`, with a full bank, `self`
and `batch`) is a case. Ratios are to the plain model: RALD's paper reports 0.66 of ResNet-18.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from affect_jax.benchmark import suite, train
from affect_jax.errors import UserError
from affect_jax.evaluation import contexts
from affect_jax.models.preprocessing import normalise
from affect_jax.models.relations import BANK_LABELS, Comparison
from affect_jax.models.relations_settings import CONTEXTS
from affect_jax.models.state import take_apart

SUITE = "infer"
_PLAIN = "without relations"


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = suite.parser(SUITE, __doc__)
    train.add_options(parser, system="rald_fg_emotions", batch_size=64, steps=1)
    options = parser.parse_args(arguments)
    return suite.run(functools.partial(measure, options), options.json)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure images a second with and without relations.

    Raises:
      UserError: the options do not fit, or the config has no relations to leave out.
    """
    config = train.settings(options)
    system = train.system_of(config)
    if contexts.image_relations(system) is None:
        raise UserError(f"configs/{options.system}.py has no model.relations that compare images")
    plain = config.copy_and_resolve_references()
    plain.model.relations.enabled = False
    cases = {_PLAIN: forward(plain, None, options.steps)}
    cases |= {context: forward(config, context, options.steps) for context in CONTEXTS}
    figures = suite.in_turn(cases, options.repeats)
    about = f"{config.model.name} {config.data.image_size} px, {config.batch_size}"
    return [
        suite.row(
            SUITE,
            f"{about}, {name}",
            "images_per_second",
            own,
            "images/s",
            baseline=None if name == _PLAIN else _PLAIN,
            baseline_figures=None if name == _PLAIN else figures[_PLAIN],
        )
        for name, own in figures.items()
    ]


def forward(
    config: ml_collections.ConfigDict, context: str | None, steps: int
) -> Callable[[], float]:
    """Return a function that predicts `steps` batches and gives images a second.

    Args:
      config: of the model.
      context: what images are compared with; None for a model without relations.
      steps: batches per measurement.
    """
    model = train.system_of(config).create_model(nnx.Rngs(config.seed), None)
    blueprint, params, stats = take_apart(model)
    if context == "bank":
        size = stats[BANK_LABELS].shape
        stats = {**stats, BANK_LABELS: jnp.zeros(size, jnp.int32)}
    extra = {} if context is None else {"comparison": Comparison(context=context)}
    section = config.model

    @jax.jit
    def predict(params: dict, stats: dict, images: jax.Array) -> jax.Array:
        inputs = normalise(images, section.mean, section.std)
        return blueprint.build(params, stats)(inputs, **extra)["logits"]

    images = jax.device_put(train.random_batch(config)["image"])

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            logits = predict(params, stats, images)
        jax.block_until_ready(logits)
        return steps * config.batch_size / (time.perf_counter() - start)

    run()  # compiles
    return run
