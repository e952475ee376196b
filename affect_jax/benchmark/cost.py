"""`benchmark cost`: what reliability balancing adds to a training step.

The step of a run (forward, backward, optimizer) with and without `model.reliability` is timed in
turn on a batch already on the devices, and so is balancing alone: its correction, all losses and
their gradients, from given embeddings and logits. The rows also hold the operations that XLA counts
in forward and backward pass, including element-wise ones, and the parameters of each part.

A full-size step on a CPU takes most of a minute, and longer to compile. `--repeats 0` only counts.
`--only_alone` times only the balancing. It compares it with the shortest time that the operations
of a bare step can take, at the rate of large float32 matrix products.
"""

import argparse
import collections
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import systems
from affect_jax.benchmark import suite, train
from affect_jax.errors import UserError
from affect_jax.models.preprocessing import normalise
from affect_jax.models.reliability import Reliability
from affect_jax.models.state import take_apart
from affect_jax.systems.objective import LossInputs

SUITE = "cost"


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = suite.parser(SUITE, __doc__)
    train.add_options(parser, system="arbex_rafdb", batch_size=32, steps=1)
    parser.add_argument("--only_alone", action="store_true", help="do not time whole steps")
    options = parser.parse_args(arguments)
    return suite.run(functools.partial(measure, options), options.json, training=True)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure time and operations of a step, with and without; count parameters.

    Raises:
      UserError: if the options do not fit, or the config has no balancing to leave out.
    """
    if options.only_alone and options.steps > 1:
        raise UserError("--steps has no effect with --only_alone; leave out one of them")
    config = train.settings(options)
    if train.system_of(config).balancing is None:
        raise UserError(f"configs/{options.system}.py has no model.reliability to leave out")
    bare = config.copy_and_resolve_references()
    bare.model.reliability.enabled = False
    configs = {"bare": bare, "balanced": config}
    built = {name: Built.of(c) for name, c in configs.items()}

    def milliseconds(run):
        return lambda: 1000 * config.batch_size / run()

    cases: dict[str, Callable[[], float]] = {}
    if options.repeats:
        if not options.only_alone:
            cases = {k: milliseconds(train.training(c, options.steps)) for k, c in configs.items()}
        cases["balancing alone"] = alone(built["balanced"])
        cases["matmul"] = train.matmul(np.float32, 1024)
    figures = suite.in_turn(cases, options.repeats)
    rates = figures.pop("matmul", [])
    about = f"{config.model.name} {config.data.image_size} px, {config.batch_size}"
    found = []
    counts = {k: [operations(b) / 1e9] for k, b in built.items()}
    for metric, unit, values in (("step", "ms", figures), ("step_operations", "GFLOP", counts)):
        for name, own in values.items():
            against = values.get("bare") if name == "balanced" else None
            found.append(
                suite.row(
                    SUITE, f"{about}, {name}", metric, own, unit, lower_is_better=True,
                    baseline="bare" if against else None, baseline_figures=against,
                )
            )  # fmt: skip
    added = [counts["balanced"][0] - counts["bare"][0]]
    found.append(suite.row(SUITE, f"{about}, balancing", "step_operations", added, "GFLOP"))
    if rates:
        # No bare step is faster than its operations at the rate of large matrix products.
        least = [counts["bare"][0] / (rate / 1e9) * 1000 for rate in rates]
        shares = [own / ms for own, ms in zip(figures["balancing alone"], least, strict=True)]
        found.append(suite.row(SUITE, f"{about}, bare", "step_at_matrix_rate", least, "ms"))
        found.append(suite.row(SUITE, f"{about}, balancing", "share_at_most", shares, "of a step"))
    for part, count in parameters(built["balanced"].model).items():
        found.append(suite.row(SUITE, part, "parameters", [count], "numbers"))
    return found


class Built(NamedTuple):
    """A config's model in training mode, and the other arguments of its loss."""

    config: ml_collections.ConfigDict
    system: systems.System
    phase: systems.Phase
    model: nnx.Module

    @classmethod
    def of(cls, config: ml_collections.ConfigDict) -> "Built":
        system = train.system_of(config)
        phase = system.phases(config.num_steps)[-1]
        model = system.create_model(nnx.Rngs(config.seed), None)
        system.set_train_mode(model, phase)
        return cls(config, system, phase, model)

    def loss(self, outputs: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
        """Return the objective of a model's outputs and the batch's labels."""
        return self.system.loss(LossInputs(outputs, batch, jax.random.key(0)), self.phase)[0]


def operations(built: Built) -> float:
    """Count operations of loss and gradient as XLA does before it optimises."""
    blueprint, params, stats = take_apart(built.model)
    section = built.config.model

    def gradient(params, stats, batch):
        def loss(params):
            images = normalise(batch["image"], section.mean, section.std)
            model = blueprint.build(params, stats)
            outputs = built.system.forward(model, images, built.phase, nnx.Rngs(dropout=0))
            return built.loss(outputs, batch)

        return jax.grad(loss)(params)

    lowered = jax.jit(gradient).lower(params, stats, train.random_batch(built.config))
    cost = lowered.cost_analysis()
    if cost is None:
        raise UserError("XLA counts no operations on this device; run the suite on a CPU")
    return cost["flops"]


def alone(built: Built) -> Callable[[], float]:
    """Return a function that times the part, forward and backward, in ms."""
    modules = (module for _, module in nnx.iter_modules(built.model))
    part = next(module for module in modules if isinstance(module, Reliability))
    blueprint, params, stats = take_apart(part)
    batch = jax.device_put(train.random_batch(built.config))
    built.model.eval()
    found = jax.eval_shape(built.model, batch["image"].astype(np.float32))
    built.system.set_train_mode(built.model, built.phase)
    rng = np.random.default_rng(0)
    given = {
        name: rng.standard_normal(found[name].shape).astype(np.float32)
        for name in ("embedding", "logits")
    }

    @jax.jit
    def gradient(params, given):
        def loss(params, given):
            return built.loss(blueprint.build(params, stats)(given), batch)

        return jax.grad(loss, argnums=(0, 1))(params, given)

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(gradient(params, given))
        return 1000 * (time.perf_counter() - start)

    run()  # compiles
    return run


def parameters(model: nnx.Module) -> dict[str, int]:
    """Count parameters by member of the model and of its `backbone`; and all."""
    counts: collections.Counter[str] = collections.Counter()
    for path, array in take_apart(model)[1].items():
        names = path.split("/")
        counts["/".join(names[: 2 if names[0] == "backbone" else 1])] += array.size
    return {**counts, "all": counts.total()}
