"""`benchmark train`: training steps on the devices of this machine, ours and PyTorch's in turn.

The step of a run (forward, backward, optimizer) is timed on a batch already on the devices. Model
FLOPs utilisation is the rate of the network's work (three forward passes, one of what comes before
all that trains), divided by the rate that the same devices reach in large matrix products of the
same type. With `--peer`, PyTorch networks do
the same work in processes of their own: bf16 autocast, channels_last, fused AdamW.

`--cases` measures systems at full size, `--cases all` all of them; without it, `--system` is the
only case. `--plan FILE` is a JSON object with these options. On a machine that is lent for minutes,
`--build_deadline` and `--deadline` limit the seconds, and `--json` is written after each figure.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import systems
from affect_jax.benchmark import cases as cases_lib
from affect_jax.benchmark import drive, drive_rows, flops, kernels, peer, suite
from affect_jax.benchmark.cases import Case, classes_of
from affect_jax.benchmark.drive import OURS
from affect_jax.benchmark.timing import CLOCKS
from affect_jax.errors import UserError
from affect_jax.models.state import select, take_apart
from affect_jax.runtime.parallel import AXIS, Mapper, check_batch_size
from affect_jax.training import step as step_lib

SUITE = "train"
_HAS = frozenset({"expression", "valence_arousal", "landmarks"})
# Forward, and twice as much for the gradients of inputs and weights.
PASSES = 3
_MATMUL = "matrix products, "


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = suite.parser(SUITE, __doc__)
    add_options(parser, system="vit_se_fer2013", steps=20)
    parser.add_argument("--matmul_size", type=int, default=0, help="default: 8192 on a GPU or TPU")
    cases_lib.add_options(parser)
    options = cases_lib.parse_options(parser, arguments)
    return suite.run(functools.partial(measure, options), options.json, training=True)


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
    config = cases_lib.config_of(cases_lib.of_options(options))
    check_batch_size(config.batch_size)
    return config


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure images a second, ours and the peers', utilisation and matrix rate."""
    cases = cases_lib.of_plan(options)
    for name in {case.peer for case in cases if case.peer} if options.peer else ():
        peer.check(name)
    dtypes = dict.fromkeys(str(cases_lib.config_of(case).model.dtype) for case in cases)
    size = {"size": options.matmul_size}
    matmuls = [
        Case(f"{_MATMUL}{dtype}", "", dtype=dtype, settings=size, clock=options.clock)
        for dtype in dtypes
    ]

    def changed(results: drive.Results) -> None:
        if options.json:
            suite.save(rows(cases, results), options.json)

    plan = drive.Options(
        SUITE,
        modes=options.peer,
        steps=options.steps,
        repeats=options.repeats,
        build_deadline=options.build_deadline,
        deadline=options.deadline,
        profile=[c.name for c in cases] if options.profile == ["all"] else options.profile,
        environment=options.environment,
        processes=bool(options.peer) or len(cases) > 1,
    )
    results = drive.Drive([*matmuls, *cases], plan, changed).run()
    for name, found in results.profiles.items():
        print(f"--- {name}", *kernels.lines(found), sep="\n")
    if not results.figures:
        raise UserError("nothing was measured: " + "; ".join(results.errors.values()))
    return rows(cases, results)


def rows(cases: Sequence[Case], results: drive.Results) -> list[dict[str, Any]]:
    """Return the rows of what has been measured."""
    found = []
    for case in cases:
        own = results.figures.get((case.name, OURS), [])
        built = results.built.get((case.name, OURS), {})
        label = built.get("label", case.name)
        row = functools.partial(suite.row, SUITE, label)
        peers = drive_rows.peers(case, results)
        for baseline, figures in peers.items() or [(None, None)]:
            if own:
                found.append(
                    row(
                        "images_per_second",
                        own,
                        "images/s",
                        baseline=baseline,
                        baseline_figures=figures,
                    )
                )
        for name, figures in peers.items():
            about = f"{case.name}: {name}"
            found.append(suite.row(SUITE, about, "images_per_second", figures, "images/s"))
        if own and "gflops" in built:
            found.append(row("model_gflops_per_image", [built["gflops"]], "GFLOP"))
        matmul = results.figures.get((f"{_MATMUL}{built.get('dtype')}", OURS))
        if own and matmul:
            peak = statistics.median(matmul) * built["devices"]
            share = [x * built["gflops"] * 1e9 / peak for x in own]
            found.append(row("model_flops_utilisation", share, "of the matrix rate"))
        for side in (OURS, *cases_lib.PEER_MODES):
            known = results.built.get((case.name, side), {})
            for what, unit in (("seconds", "s"), ("init_seconds", "s"), ("memory_gb", "GB")):
                if what in known:
                    metric = f"{'build_seconds' if what == 'seconds' else what}, {side}"
                    found.append(row(metric, [known[what]], unit, lower_is_better=True))
        if own and case.name in results.profiles:
            step_ms = 1000 * built["batch_size"] / statistics.median(own)
            found += drive_rows.profile(SUITE, label, results.profiles[case.name], step_ms)
    for (name, side), figures in results.figures.items():
        if name.startswith(_MATMUL):
            device = results.built[name, side]
            rate = [x / 1e12 for x in figures]
            found.append(suite.row(SUITE, device["label"], device["metric"], rate, "TFLOP/s"))
    return found


def about(side: str) -> dict[str, Any]:
    """Return device and version of a side: "ours", or a mode of the peer."""
    if side == OURS:
        return {"version": jax.__version__, "device": jax.devices()[0].device_kind}
    from affect_jax.benchmark.peer import measure as peer_measure

    return {"version": peer.version(), "device": peer_measure.device_name()}


def build(case: Case, side: str, steps: int) -> tuple[Callable[[], float], dict[str, Any]]:
    """Return a measurement of training steps, and what is known of it."""
    if side != OURS:
        from affect_jax.benchmark.peer import measure as peer_measure

        return peer_measure.training(case, side, steps), {}
    devices = jax.devices()
    if case.name.startswith(_MATMUL):
        dtype = jnp.dtype(case.dtype)
        size = case.settings["size"] or (1024 if devices[0].platform == "cpu" else 8192)
        kind = f"{devices[0].device_kind} x {len(devices)}"
        return matmul(dtype, size, case.clock), {"label": kind, "metric": f"matmul_{dtype.name}"}
    config = cases_lib.config_of(case)
    check_batch_size(config.batch_size)
    known = {
        "label": cases_lib.label(case, config),
        "gflops": step_flops(config) / 1e9,
        "devices": len(devices),
        "dtype": str(config.model.dtype),
        "batch_size": config.batch_size,
    }
    return training(config, steps, known, case.clock), known


def step_flops(config: ml_collections.ConfigDict) -> int:
    """Return the operations of a training step, in its last phase, for one image.

    These are `PASSES` forward passes of all that depends on parameters that train, and one of what
    comes before it; twice as many where sharpness-aware minimisation takes two gradients.
    """
    found = operations(config)
    gradients = 2 if config.optimizer.sam_rho else 1
    return gradients * (found.all + (PASSES - 1) * found.dependent)


def operations(config: ml_collections.ConfigDict) -> flops.Operations:
    """Return the operations of a forward pass for one image, see `step_flops`."""
    counted = config.copy_and_resolve_references()
    counted.model.dtype = "float32"  # the inside of fused attention cannot be counted
    system = system_of(counted)
    phase = system.phases(counted.num_steps)[-1]
    model = nnx.eval_shape(lambda: system.create_model(nnx.Rngs(0), None))
    blueprint, params, stats = take_apart(model)
    trained, fixed = select(params, lambda path: system.trainable(path, phase))
    side = counted.data.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    def forward(trained: dict, fixed: dict, stats: dict, image: jax.Array) -> Any:
        return blueprint.build({**fixed, **trained}, stats)(image)

    return flops.count_dependent(forward, trained, fixed, stats, image)


def system_of(config: ml_collections.ConfigDict) -> systems.System:
    """Return the system of a config, for labels of every kind."""
    classes = classes_of(config)
    return systems.create(
        config, class_names=classes, has=_HAS, class_counts=tuple(1 for _ in classes)
    )


def training(
    config: ml_collections.ConfigDict,
    steps: int,
    known: dict[str, Any] | None = None,
    clock: str = "wall",
) -> Callable[[], float]:
    """Return a function that trains `steps` steps and gives images a second.

    Args:
      config: of the run.
      steps: per measurement.
      known: receives `init_seconds`, the time until the first step begins to compile.
      clock: see `Case`.
    """
    begin = time.perf_counter()
    system, mapper = system_of(config), Mapper(config.parallel.mapping)
    model = system.create_model(nnx.Rngs(config.seed), AXIS)
    phases = step_lib.Phases(system, model, mapper, config.num_steps, 100)
    begun = phases.begin(phases.all[-1])
    held = [mapper.replicate(phases.fresh_state(begun))]
    batch = mapper.place(random_batch(config))
    if known is not None:
        known["init_seconds"] = time.perf_counter() - begin

    def step() -> jax.Array:
        held[0], terms = begun.run(held[0], batch)
        return terms["loss"]

    return Timed(step, config.batch_size, steps, clock)


class Timed:
    """A step that can be timed and profiled; it is compiled when this is made.

    Args:
      step: gives the result that says that it has ended.
      images: of a step.
      steps: per measurement.
      clock: see `Case`.
    """

    def __init__(self, step: Callable[[], Any], images: int, steps: int, clock: str = "wall"):
        self._clock = CLOCKS[clock]
        self._step, self._images, self._steps = step, images, steps
        # On a GPU other programs ran before: its clock and caches need a few steps.
        self._warm_up = 0 if jax.devices()[0].platform == "cpu" else 3
        self.take(2)

    def take(self, steps: int) -> None:
        """Take steps and wait until the device has done them."""
        for _ in range(steps):
            last = self._step()
        jax.block_until_ready(last)

    def __call__(self) -> float:
        """Return images a second."""
        if self._warm_up:
            self.take(self._warm_up)
        start = self._clock()
        self.take(self._steps)
        return self._steps * self._images / (self._clock() - start)


def random_batch(config: ml_collections.ConfigDict, classes: int = 7) -> dict[str, np.ndarray]:
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


def matmul(dtype: Any, size: int, clock: str = "wall") -> Callable[[], float]:
    """Return a function that gives one device's FLOP/s in square products; `clock`: see `Case`."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), dtype)
    product = jax.jit(jnp.matmul)
    on_cpu = a.devices().pop().platform == "cpu"
    # A tenth of a second on two cores or more: in less, other work of the machine decides.
    repeats = max(1, round(2e10 / size**3)) if on_cpu else 20

    def run() -> float:
        # Threads that sleep, and a device that has cooled down, need a first one.
        jax.block_until_ready(product(a, a))
        start = CLOCKS[clock]()
        for _ in range(repeats):
            last = product(a, a)
        jax.block_until_ready(last)
        return repeats * 2 * size**3 / (CLOCKS[clock]() - start)

    run()
    return run
