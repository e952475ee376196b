"""`benchmark train`: training steps on the devices of this machine.

The step of a run (forward, backward, optimizer, moving average) is timed on a batch already on the
devices. Model FLOPs utilisation is the rate of the network's work (three forward passes), divided
by the rate that the same devices reach in large matrix products of the same type. With --peer,
timm's network in PyTorch (torch.compile, bf16 autocast) takes turns with ours; that needs `timm`
and `torch`.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax.benchmark import flops, peer, suite
from affect_jax.runtime.parallel import AXIS, Mapper, check_batch_size
from affect_jax.training import step as step_lib
from data_pipelines.hierarchies import tree

SUITE = "train"
_CLASSES = tuple(f"class {i}" for i in range(7))
_HAS = frozenset({"expression", "valence_arousal", "landmarks"})
# Forward, and twice as much for the gradients of inputs and weights.
_PASSES = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = suite.parser(SUITE, __doc__)
    add_options(parser, system="vit_se_fer2013", steps=20)
    parser.add_argument("--matmul_size", type=int, default=0, help="default: 8192 on a GPU or TPU")
    parser.add_argument("--peer", action="store_true", help="measure timm in PyTorch as well")
    options = parser.parse_args(arguments)
    return suite.run(functools.partial(measure, options), options.json)


def add_options(parser: argparse.ArgumentParser, **defaults: str | int) -> None:
    """Add the options of a training step; 0 or "" leaves what the config has."""
    chosen = {"model": "", "batch_size": 0, "image_size": 0, "dtype": ""} | defaults
    helps = {
        "system": "name of a file in configs/",
        "model": "another model of the same kind, as vit_ti16",
        "steps": "steps per measurement",
    }
    for name, default in chosen.items():
        text = helps.get(name, "default: " + (str(default) if default else "the config's"))
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)


def settings(options: argparse.Namespace) -> ml_collections.ConfigDict:
    """Return the config of `--system` with the other options in it.

    Raises:
      UserError: the config does not exist, or its batch does not fit the devices.
    """
    config = config_lib.load_file(suite.CONFIGS / f"{options.system}.py")
    config.model.name = options.model or config.model.name
    config.model.dtype = options.dtype or config.model.dtype
    config.batch_size = options.batch_size or config.batch_size
    config.data.image_size = options.image_size or config.data.image_size
    config.num_steps = 1000
    check_batch_size(config.batch_size)
    return config


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure images a second, ours and the peer's, utilisation and matrix rate."""
    config = settings(options)
    theirs = f"timm, torch {peer.version()}" if options.peer else None
    dtype = jnp.dtype(config.model.dtype)
    devices = jax.devices()
    size = options.matmul_size or (1024 if devices[0].platform == "cpu" else 8192)
    case = f"{config.model.name} {config.data.image_size} px, {dtype.name}, {config.batch_size}"
    operations = _PASSES * forward_flops(config)
    cases = {"ours": training(config, options.steps), "matmul": matmul(dtype, size)}
    if theirs:
        cases[theirs] = peer.training(
            config.model.name,
            image_size=config.data.image_size,
            batch_size=config.batch_size,
            classes=len(_CLASSES),
            low_precision=dtype.itemsize == 2,
            steps=options.steps,
        )
    figures = suite.in_turn(cases, options.repeats)
    ours, peak = figures["ours"], figures["matmul"]
    share = [x * operations / (p * len(devices)) for x, p in zip(ours, peak, strict=True)]
    about = f"{devices[0].device_kind} x {len(devices)}"
    found = [
        suite.row(
            SUITE,
            case,
            "images_per_second",
            ours,
            "images/s",
            baseline=theirs,
            baseline_figures=figures[theirs] if theirs else None,
        ),
        suite.row(SUITE, case, "model_flops_utilisation", share, "of the matrix rate"),
        suite.row(SUITE, about, f"matmul_{dtype.name}", [p / 1e12 for p in peak], "TFLOP/s"),
        suite.row(SUITE, case, "model_gflops_per_image", [operations / 1e9], "GFLOP"),
    ]
    if theirs:
        found.append(suite.row(SUITE, theirs, "images_per_second", figures[theirs], "images/s"))
    return found


def forward_flops(config: ml_collections.ConfigDict) -> int:
    """Return the operations of a forward pass for one image."""
    counted = config.copy_and_resolve_references()
    counted.model.dtype = "float32"  # the inside of fused attention cannot be counted
    system = system_of(counted)
    model = nnx.eval_shape(lambda: system.create_model(nnx.Rngs(0), None))
    graphdef, state = nnx.split(model)
    side = counted.data.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return flops.count(lambda s, x: nnx.merge(graphdef, s)(x), state, image)


def system_of(config: ml_collections.ConfigDict) -> systems.System:
    """Return the system of a config, for labels of every kind.

    The classes are those of its label tree, or seven without names.
    """
    name = config.model.get("hierarchy")
    classes = tree.load(name).fine if name else _CLASSES
    return systems.create(
        config, class_names=classes, has=_HAS, class_counts=tuple(1 for _ in classes)
    )


def training(config: ml_collections.ConfigDict, steps: int) -> Callable[[], float]:
    """Return a function that trains `steps` steps and gives images a second."""
    system, mapper = system_of(config), Mapper(config.parallel.mapping)
    model = system.create_model(nnx.Rngs(config.seed), AXIS)
    phases = step_lib.Phases(system, model, mapper, config.num_steps, 100)
    begun = phases.begin(phases.all[-1])
    held = [mapper.replicate(phases.fresh_state(begun))]
    batch = mapper.place(random_batch(config))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            held[0], terms = begun.run(held[0], batch)
        jax.block_until_ready(terms)
        return steps * config.batch_size / (time.perf_counter() - start)

    run()  # compiles
    return run


def random_batch(
    config: ml_collections.ConfigDict, classes: int = len(_CLASSES)
) -> dict[str, np.ndarray]:
    """Return a batch of B images of noise, of side S, with random labels.

    `image` uint8 [B, S, S, 3], `expression` int32 [B], `valence_arousal` float32 [B, 2] in
    [-1, 1], `landmarks` float32 [B, 68, 2] in pixels, `mask` bool [B].
    """
    rng = np.random.default_rng(0)
    count, side = config.batch_size, config.data.image_size
    return {
        "image": rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "expression": rng.integers(0, max(classes, 1), count).astype(np.int32),
        "valence_arousal": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "landmarks": rng.uniform(0, side, (count, 68, 2)).astype(np.float32),
        "mask": np.ones(count, bool),
    }


def matmul(dtype: Any, size: int) -> Callable[[], float]:
    """Return a function that gives one device's FLOP/s in square products."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    repeats = max(1, round(2e9 / size**3)) if a.devices().pop().platform == "cpu" else 20

    def run() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            last = product(a, a)
        jax.block_until_ready(last)
        return repeats * 2 * size**3 / (time.perf_counter() - start)

    run()
    return run
