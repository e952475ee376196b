"""`benchmark smoke`: check that every config trains and evaluates on this machine.

Each config takes, at its real size, one training step of every phase and one evaluation step on a
tiny batch of noise with random labels, so no data are needed. This finds configs that do not
compile or do not fit on a device, in minutes instead of in the middle of an experiment. Configs
with the same program are run once.
"""

import argparse
import dataclasses
import fnmatch
import gc
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax.benchmark import suite
from affect_jax.benchmark.train import random_batch
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation import evaluator as evaluator_lib
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import AXIS, Mapper
from affect_jax.training import step as step_lib
from data_pipelines import datasets
from data_pipelines.defaults import DataConfig
from data_pipelines.hierarchies import tree
from data_pipelines.schema import LABEL_ORDERS, LABELS, resolve_classes
from data_pipelines.sources import synthetic

SUITE = "smoke"
_NO_EXPERIMENTS = ("__init__", "base")
_N_FEATURES = 512  # of a vector of stored features, as of a ResNet-18
_STEPS = 1000  # length of the run that the steps are taken from
# Sections of a config that make its program; the others change data or files.
_OF_THE_PROGRAM = ("system", "model", "landmark_stage", "loss", "mixing", "optimizer", "ema_decay")
_LINE = "{:32} {:>12} {:8} {:8} {:>10}  {}"


@dataclasses.dataclass
class Outcome:
    """The result of one config.

    Attributes:
      name: of the config, as "sweeps/arbex_noise".
      parameters: their number; 0 without a model.
      train, evaluation: whether the step ran and gave finite numbers.
      seconds: until both had run once, compiling included.
      note: the error in one line, or the name of the config with the same program.
    """

    name: str
    parameters: int = 0
    train: bool = False
    evaluation: bool = False
    seconds: float = 0.0
    note: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`. Return 1 if any config failed."""
    parser = argparse.ArgumentParser("python -m affect_jax.benchmark smoke", description=__doc__)
    which = "names, patterns or files, as quickstart,vit_*; default: all"
    parser.add_argument("--configs", default="", help=which)
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(arguments)
    try:
        chosen = choose(options.configs)
    except UserError as error:
        print(f"affect_jax: {error}", file=sys.stderr)
        return 2
    device = f"{jax.devices()[0].device_kind} x {jax.device_count()}"
    print(f"one step of {batch_size()} examples on {device}, jax {jax.__version__}")
    print(_LINE.format("config", "parameters", "train", "eval", "seconds", ""), flush=True)
    found: list[Outcome] = []
    programs: dict[str, Outcome] = {}
    for name, path in chosen.items():
        found.append(run(name, path, programs))
        print(line(found[-1]), flush=True)
    failed = [o.name for o in found if not (o.train and o.evaluation)]
    print(f"{len(found) - len(failed)} of {len(found)} configs train and evaluate")
    if options.json:
        suite.save([row for outcome in found for row in table(outcome, device)], options.json)
    return int(bool(failed))


def choose(text: str) -> dict[str, pathlib.Path]:
    """Return name -> file of the configs in `--configs`, of all for an empty text.

    Raises:
      ConfigError: for a name or pattern that no config has.
    """
    files = [*sorted(suite.CONFIGS.glob("*.py")), *sorted(suite.CONFIGS.glob("sweeps/*.py"))]
    known = {
        path.relative_to(suite.CONFIGS).with_suffix("").as_posix(): path
        for path in files
        if path.stem not in _NO_EXPERIMENTS
    }
    chosen: dict[str, pathlib.Path] = {}
    for wanted in (part.strip() for part in text.split(",")):
        name = wanted.removesuffix(".py").removeprefix("configs/")
        matching = fnmatch.filter(known, name)
        if matching:
            chosen |= {match: known[match] for match in matching}
        elif wanted.endswith(".py") and pathlib.Path(wanted).is_file():
            chosen[wanted] = pathlib.Path(wanted)
        elif wanted:
            raise config_lib.ConfigError(f"--configs: no config {wanted!r}; {nearest(name, known)}")
    return chosen or known


def batch_size() -> int:
    """Return the smallest global batch that devices share and that mixes."""
    devices = jax.device_count()
    return devices if devices > 1 else 2


def run(name: str, path: pathlib.Path, programs: dict[str, Outcome]) -> Outcome:
    """Take one step of every kind with a config; any error becomes a note.

    Args:
      name: of the config.
      path: its file.
      programs: results so far, by `program`; this one is added.
    """
    outcome = Outcome(name)
    start = time.perf_counter()
    try:
        config = config_lib.load_file(path)
        class_names, has = labels(config)
        key = program(config, len(class_names), has)
        if key in programs:
            first = programs[key]
            note = f"as {first.name}" + (f": {first.note}" if first.note else "")
            return dataclasses.replace(first, name=name, seconds=0.0, note=note)
        programs[key] = outcome
        take_steps(config, class_names, has, outcome)
    except Exception as error:  # of any kind: finding them is the purpose
        text = " ".join(str(error).split()) or "no message"
        outcome.note = f"{type(error).__name__}: {text[:300]}"
    outcome.seconds = time.perf_counter() - start
    # One config at a time on the device, and in memory.
    jax.clear_caches()
    gc.collect()
    return outcome


def labels(config: ml_collections.ConfigDict) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return class names and label fields of a config's data, if it names them.

    A manifest, a folder or features are taken to have AffectNet's eight classes, features those of
    the tree that the model uses, and all labels for which the model has outputs.
    """
    data, model = config.data, config.model
    class_names, has = LABEL_ORDERS["affectnet8"], LABELS
    if not (model.name == "emofan" or model.get("regression")):
        has -= {"valence_arousal"}
    if data.source == "features":
        has = has - {"landmarks"}
        if model.get("hierarchy"):
            class_names = tree.load(model.hierarchy).fine
    if data.source == "synthetic":
        settings = DataConfig.of(data)
        faces = synthetic.synthetic_sources(settings.synthetic)["train"]
        class_names, has = faces.class_names, faces.has
        if not settings.learns_votes:
            has -= {"expression_probs"}
    elif data.source == "tfds" and data.dataset.partition("/")[0] != "manifest":
        card = datasets.builder_class(data.dataset.partition("/")[0]).card
        has = frozenset(card.fields)
        class_names = card.class_names or (class_names if "expression" in has else ())
    return (resolve_classes(data.classes) if data.classes else tuple(class_names)), has


def program(config: ml_collections.ConfigDict, classes: int, has: frozenset[str]) -> str:
    """Return what tells two programs apart; of numbers whether they are 0 or 1."""

    def kind(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: kind(v) for k, v in value.items()}
        return [value == 0, value == 1] if isinstance(value, float) else value

    plain = config_lib.to_plain(config)
    parts = {key: kind(plain[key]) for key in _OF_THE_PROGRAM}
    shapes = [config.data.image_size, config.eval.flip, config.eval.calibrate, classes, sorted(has)]
    return json.dumps([parts, shapes], sort_keys=True)


def take_steps(
    config: ml_collections.ConfigDict,
    class_names: Sequence[str],
    has: frozenset[str],
    outcome: Outcome,
) -> None:
    """Train one step of every phase, then evaluate one batch; fill in `outcome`.

    Raises:
      FloatingPointError: a loss or a metric is not a finite number.
    """
    config.batch_size, config.num_steps = batch_size(), _STEPS
    config_lib.check(config)
    count = len(class_names)
    n_features = _N_FEATURES if config.data.source == "features" else 0
    system = systems.create(
        config,
        class_names=tuple(class_names),
        has=has,
        class_counts=(1,) * count,
        n_features=n_features,
    )
    mapper = Mapper(config.parallel.mapping)
    model = system.create_model(nnx.Rngs(config.seed), AXIS)
    outcome.parameters = sum(np.size(x) for x in take_apart(model)[1].values())
    batch = random_batch(config, count) | {"index": np.arange(config.batch_size)}
    if n_features:
        shape = (config.batch_size, n_features)
        batch["image"] = np.random.default_rng(0).standard_normal(shape, np.float32)
    if "expression_probs" in has:
        batch["expression_probs"] = np.full((config.batch_size, count), 1 / count, np.float32)
    phases = step_lib.Phases(system, model, mapper, _STEPS, 100)
    for phase in phases.all:
        begun = phases.begin(phase)
        state = mapper.replicate(phases.fresh_state(begun))
        state, terms = begun.run(state, mapper.place(batch))
        check_finite(jax.device_get(terms), f"step of phase {phase.name!r}")
    outcome.train = True
    evaluator = evaluator_lib.Evaluator(system, mapper, take_apart(model)[0], flip=config.eval.flip)
    check_finite(evaluator.run(state, [batch]).metrics, "evaluation")
    outcome.evaluation = True


def check_finite(figures: Mapping[str, Any], where: str) -> None:
    """Raise FloatingPointError naming the figures that are not finite numbers."""
    wrong = [name for name, value in figures.items() if not math.isfinite(value)]
    if wrong or not figures:
        raise FloatingPointError(f"{where}: not finite: {', '.join(wrong) or 'no figure'}")


def line(outcome: Outcome) -> str:
    """Return an outcome as a line of the printed table."""
    words = ["ok" if good else "failed" for good in (outcome.train, outcome.evaluation)]
    count, seconds = f"{outcome.parameters:,}", f"{outcome.seconds:.1f}"
    return _LINE.format(outcome.name, count, *words, seconds, outcome.note).rstrip()


def table(outcome: Outcome, device: str) -> list[dict[str, Any]]:
    """Return an outcome as benchmark rows, with the device and the note."""
    figures = {
        "parameters": (outcome.parameters, "parameters"),
        "train_step": (int(outcome.train), "1: ok"),
        "evaluation_step": (int(outcome.evaluation), "1: ok"),
        "compile_seconds": (outcome.seconds, "s"),
    }
    more = {"device": device, "note": outcome.note}
    return [
        suite.row(SUITE, outcome.name, metric, [value], unit) | more
        for metric, (value, unit) in figures.items()
    ]
