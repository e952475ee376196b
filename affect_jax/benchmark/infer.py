"""`benchmark infer`: predictions on this machine, ours and PyTorch's in turn.

Ours is the program of `affect_jax.load`: BatchNorm folded, from uint8 images to logits, valence and
arousal. A batch of 1 is waited for each time (latency); larger ones follow each other (throughput).
Images lie on the device, or with `--decode` are JPEGs: decoding, framing and copying then count, by
the same functions on all sides. `--engines` adds our export to ONNX in ONNX Runtime, float32 or 8
bits. A model that relates images (RALD) is measured in each context, and without relations.

`--cases all` measures the systems at full size; without `--cases`, `--system` or `--model_dir` is
the only case. Weights are random, except those of `--model_dir`.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import pathlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from affect_jax.benchmark import cases as cases_lib
from affect_jax.benchmark import drive, drive_rows, infer_onnx, kernels, peer, suite, train
from affect_jax.benchmark import input as input_suite
from affect_jax.benchmark.cases import Case
from affect_jax.benchmark.drive import OURS
from affect_jax.benchmark.timing import Engine, Paced
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation import contexts
from affect_jax.models.inference_form import by_slices, depends_on_batch, fold
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.models.relations import BANK_LABELS, Comparison
from affect_jax.models.relations_settings import CONTEXTS
from affect_jax.models.state import take_apart
from affect_jax.weights.model_dir import MODEL_FILE, LoadedModel, load_model
from data_pipelines.images.decode import decode
from data_pipelines.loading.options import usable_cores

SUITE = "infer"
ENGINES = ("jax", "onnx", "int8")
DTYPES = ("float32", "bfloat16")
_KINDS = {"onnx": "ONNX Runtime float32", "int8": "ONNX Runtime int8"}
_OUTPUTS = ("logits", "valence", "arousal")
_PLAIN = "without relations"
_JPEGS = 32  # different ones
_PROFILED = 20  # steps


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = suite.parser(SUITE, __doc__)
    parser.add_argument("--system", default="base", help="name of a file in configs/")
    parser.add_argument("--model", default="", help="another model of the same kind, as vit_ti16")
    parser.add_argument("--model_dir", default="", help="model directory, in place of --system")
    parser.add_argument("--image_size", type=int, default=0, help="default: the config's")
    parser.add_argument("--batch_sizes", type=_numbers, default=[1, 16], help="default: 1,16")
    parser.add_argument(
        "--dtypes", type=cases_lib.names, default=[DTYPES[0]], help="of float32,bfloat16"
    )
    parser.add_argument(
        "--engines", type=cases_lib.names, default=[ENGINES[0]], help=f"of {','.join(ENGINES)}"
    )
    parser.add_argument(
        "--decode", action="store_true", help="measure each case from JPEGs as well"
    )
    parser.set_defaults(batch_size=0, dtype="")
    cases_lib.add_options(parser, cases_lib.INFERENCE)
    options = cases_lib.parse_options(parser, arguments)
    return suite.run(functools.partial(measure, options), options.json)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in cases_lib.names(text)]


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure images a second of every case, batch size, dtype and engine.

    Raises:
      UserError: an option does not fit.
    """
    for name, given, known in (
        ("dtypes", options.dtypes, DTYPES),
        ("engines", options.engines, ENGINES),
    ):
        for value in given:
            if value not in known:
                raise UserError(f"--{name} {value}: {nearest(value, known)}")
    if not options.batch_sizes or min(options.batch_sizes) < 1:
        raise UserError(f"--batch_sizes {options.batch_sizes}: give numbers above 0, as 1,16")
    found = cases_lib.of_plan(options, cases_lib.INFERENCE)
    if options.model_dir:
        found = [of_directory(found[0], options.model_dir)]
    profiled = [c.name for c in found] if options.profile == ["all"] else options.profile
    variants = [variant for case in found for variant in variants_of(case, options)]
    for name in {v.case.peer for v in variants if v.case.peer} if options.peer else ():
        peer.check(name)

    def changed(results: drive.Results) -> None:
        if options.json:
            suite.save(rows(variants, results), options.json)

    plan = drive.Options(
        SUITE,
        modes=options.peer,
        steps=_PROFILED,
        repeats=options.repeats,
        build_deadline=options.build_deadline,
        deadline=options.deadline,
        profile=[v.case.name for v in variants if v.of in profiled],
        environment=options.environment,
        processes=bool(options.peer) or len(variants) > 1,
    )
    results = drive.Drive([variant.case for variant in variants], plan, changed).run()
    for name, summary in results.profiles.items():
        print(f"--- {name}", *kernels.lines(summary), sep="\n")
    if not results.figures:
        raise UserError("nothing was measured: " + "; ".join(results.errors.values()))
    return rows(variants, results)


def of_directory(case: Case, directory: str) -> Case:
    """Return a case with the model of a model directory.

    Raises:
      UserError: the folder holds none.
    """
    try:
        known = json.loads((pathlib.Path(directory) / MODEL_FILE).read_text())
        name, size = known["name"], known["preprocessing"]["image_size"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"--model_dir {directory}: it holds no model ({error})") from None
    other = cases_lib.PEER_OF.get(name, name)
    return dataclasses.replace(
        case,
        name=pathlib.Path(directory).name,
        directory=directory,
        model=name,
        image_size=size,
        peer=other if other in peer.CLASSIFIERS else "",
    )


@dataclasses.dataclass(frozen=True)
class Variant:
    """A case with its batch size, dtype, engine and context.

    Attributes:
      case: that is measured.
      of: name of the case that it is a variant of.
      against: name of the case of ours that it is compared with; "": none.
    """

    case: Case
    of: str
    against: str = ""


def variants_of(case: Case, options: argparse.Namespace) -> list[Variant]:
    """Return the variants of a case: the simplest ones first."""
    relates = contexts.image_relations(train.system_of(cases_lib.config_of(case))) is not None
    without = dataclasses.replace(
        case,
        settings={**case.settings, "model.relations.enabled": False} if relates else case.settings,
    )
    found: list[Variant] = []
    decodes = (False, True) if options.decode else (False,)
    for size, decodes_now in itertools.product(options.batch_sizes, decodes):
        base = dataclasses.replace(without, batch_size=size, decode=decodes_now)
        end = f" {size}{' from JPEGs' * decodes_now}"
        first = ""
        for dtype, engine in itertools.product(options.dtypes, options.engines):
            if engine != "jax" and (dtype != "float32" or relates):
                continue
            kind = _KINDS.get(engine, dtype)
            plain = f"{case.name} {kind}{end}"
            fields = {"dtype": dtype, "engine": engine}
            if engine != "jax":
                fields["peer"] = ""
            found.append(Variant(dataclasses.replace(base, name=plain, **fields), case.name, first))
            first = first or plain
            for context in CONTEXTS if relates else ():
                compared = dataclasses.replace(
                    base,
                    name=f"{plain}, {context}",
                    dtype=dtype,
                    context=context,
                    peer="",
                    settings=case.settings,
                )
                found.append(Variant(compared, case.name, plain))
    return found


def rows(variants: Sequence[Variant], results: drive.Results) -> list[dict[str, Any]]:
    """Return the rows of what has been measured."""
    found: list[dict[str, Any]] = []
    peers = {v.case.name: drive_rows.peers(v.case, results) for v in variants}
    for variant in variants:
        name = variant.case.name
        own = results.figures.get((name, OURS), [])
        built = results.built.get((name, OURS), {})
        label = built.get("label", name)
        baselines = peers[name] or peers.get(variant.against, {})
        if against := results.figures.get((variant.against, OURS)):
            baselines = {**baselines, f"ours, {variant.against}": against}
        for baseline, figures in baselines.items() or [(None, None)]:
            if own:
                found += _rate_rows(label, own, variant.case.batch_size, baseline, figures)
        for baseline, figures in peers[name].items():
            found += _rate_rows(f"{name}: {baseline}", figures, variant.case.batch_size)
        row = functools.partial(suite.row, SUITE, label, lower_is_better=True)
        for what in ("largest_difference", "mean_difference"):
            if what in built:
                found.append(row(f"{what}_of_probabilities", [built[what]], "of 1"))
        for side in (OURS, *cases_lib.PEER_MODES):
            if known := results.built.get((name, side)):
                found.append(row(f"build_seconds, {side}", [known["seconds"]], "s"))
        if own and name in results.profiles:
            step_ms = 1000 * variant.case.batch_size / statistics.median(own)
            found += drive_rows.profile(SUITE, label, results.profiles[name], step_ms)
    return found


def _rate_rows(
    label: str,
    figures: Sequence[float],
    batch_size: int,
    baseline: str | None = None,
    baseline_figures: Sequence[float] | None = None,
) -> Iterator[dict[str, Any]]:
    row = functools.partial(suite.row, SUITE, label, baseline=baseline)
    yield row("images_per_second", figures, "images/s", baseline_figures=baseline_figures)
    if batch_size == 1:
        own = [1000 / rate for rate in figures]
        other = baseline_figures and [1000 / rate for rate in baseline_figures]
        yield row("latency", own, "ms", baseline_figures=other, lower_is_better=True)


def about(side: str) -> dict[str, Any]:
    """Return device and version of a side: "ours", or a mode of the peer."""
    return train.about(side)


def build(case: Case, side: str, steps: int) -> tuple[Paced, dict[str, Any]]:
    """Return a measurement of predictions, and what is known of it.

    Args:
      case: what is predicted.
      side: "ours", or a mode of the peer.
      steps: of a profile; a measurement takes as many as fit into a second.
    """
    config = cases_lib.config_of(case)
    known: dict[str, Any] = {"batch_size": config.batch_size}
    if side != OURS:
        from affect_jax.benchmark.peer import measure as peer_measure

        engine = peer_measure.engine(case, side)
    else:
        known["label"] = f"{case.name}: {config.model.name} {config.data.image_size} px"
        engine, differences = ours(case, config)
        known |= differences
    return Paced(step_of(case, config, engine), engine, config.batch_size, case.clock), known


def ours(case: Case, config: ml_collections.ConfigDict) -> tuple[Engine, Mapping[str, float]]:
    """Return our engine of a case, and what it loses."""
    loaded = load_model(case.directory, dtype=case.dtype) if case.directory else _fresh(config)
    if case.engine == "jax":
        return program(loaded, case.context), {}
    side = config.data.image_size
    given = nnx.eval_shape(loaded.model, jax.ShapeDtypeStruct((1, side, side, 3), np.float32))
    outputs = tuple(name for name in _OUTPUTS if name in given)
    return infer_onnx.engine(loaded, outputs, int8=case.engine == "int8")


def _fresh(config: ml_collections.ConfigDict) -> LoadedModel:
    """Return the model of a config with random weights."""
    system = train.system_of(config)
    model = system.create_model(nnx.Rngs(config.seed), None)
    return LoadedModel(
        model,
        config.model.name,
        system.model_arguments(),
        Preprocessing.of_config(config),
        tuple(system.class_names),
        {},
    )


def program(loaded: LoadedModel, context: str) -> Engine:
    """Return the predictions of a model in inference form, see `Case` for `context`."""
    together = context == "batch" or depends_on_batch(loaded.model)
    blueprint, params, stats = take_apart(fold(loaded.model))
    if context == "bank":
        size = stats[BANK_LABELS].shape
        stats = {**stats, BANK_LABELS: jnp.zeros(size, jnp.int32)}
    extra = {"comparison": Comparison(context=context)} if context else {}

    @jax.jit
    def predict(params: dict, stats: dict, images: jax.Array) -> dict[str, jax.Array]:
        def run(images: jax.Array) -> dict[str, jax.Array]:
            inputs = loaded.preprocessing.normalise(images)
            found = blueprint.build(params, stats)(inputs, **extra)
            return {name: found[name] for name in _OUTPUTS if name in found}

        return run(images) if together else by_slices(run, images)

    return Engine(
        jax.device_put,
        lambda images: predict(params, stats, images),
        lambda outputs: jax.block_until_ready(outputs) and None,
    )


def step_of(case: Case, config: ml_collections.ConfigDict, engine: Engine) -> Callable[[], Any]:
    """Return a function that predicts a batch: of noise on the device, or of JPEGs."""
    size = config.batch_size
    if not case.decode:
        images = engine.place(train.random_batch(config)["image"])
        return lambda: engine.predict(images)
    cv2.setNumThreads(1)
    framing = Preprocessing.of_config(config).framing
    jpegs = itertools.cycle(input_suite.load(None, _JPEGS))
    pool = concurrent.futures.ThreadPoolExecutor(min(usable_cores(), 16))

    def frame(jpeg: bytes) -> np.ndarray:
        return framing.pixels(decode(jpeg))

    def step() -> Any:
        given = list(itertools.islice(jpegs, size))
        pixels = map(frame, given) if size == 1 else pool.map(frame, given)
        return engine.predict(engine.place(np.stack(list(pixels))))

    return step
