"""The model card: what a model is, what it learnt from, how good it is, and what it is not for.

It is Markdown for people. The facts for programs are in `model.json`.
"""

import pathlib
import platform
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np

from affect_jax.exporting import architecture, run_results, training_data
from affect_jax.exporting.markdown import bullets, code, plain
from affect_jax.report.page import NOTICE
from affect_jax.version import __version__
from affect_jax.weights.model_dir import LoadedModel

CARD_FILE = "MODEL_CARD.md"
# What only people know, under these keys of a model's provenance -> what it says.
STATED = {
    "licence": "of the weights",
    "contact": "whom to tell of wrong results",
    "labellers": "who labelled the training images",
}

_FILL_IN = "not stated: fill in"
_USE = """## Intended use

* Research on facial expressions.
* Tools in which a person sees the image, judges each result and can overrule it.
* Statements about many images, not a verdict on one.

## Not for

* Telling what a person feels, thinks or intends, or whether they tell the truth.
* Decisions about people: work, school, credit, insurance, health, police, borders.
* Watching people who do not know of it. In the European Union they must be told.
* Emotions of people at work or in education: prohibited in the European Union with few
  exceptions, by Regulation (EU) 2024/1689, article 5(1)(f)."""
_LIMITS = (
    "An expression is not an emotion: one face goes with many feelings, one feeling with many "
    "faces.",
    "Displays and their readings depend on culture, both of the people in the images and of those "
    "who labelled them. For people who are rare in the training data, expect more errors.",
)
_OTHER_DATA = (
    "The results belong to images like those of the test. Other cameras, light, poses, ages or "
    "crops give worse ones."
)
_CONTEST = """## How to contest a result

1. Ask whoever used the model for the image, its crop, the result with all probabilities, and this
   card.
2. Ask for a judgement by a person who has not seen the result.
3. Ask for correction or deletion of the result, and tell the contact below of the error."""


def of_run(loaded: LoadedModel, workdir: str | pathlib.Path, name: str) -> str:
    """Return the card of a model that was exported from a run, as Markdown.

    Args:
      loaded: the model; its provenance as `affect_jax.export` records it.
      workdir: of the run.
      name: of the model.

    Raises:
      UserError: a file of the run is damaged.
    """
    workdir, about = pathlib.Path(workdir), loaded.provenance
    config, step = about["workdir_config"], about["step"]
    origins = training_data.origins(config)
    tested = run_results.read(workdir, step)
    limits = [*_LIMITS, _OTHER_DATA]
    if all(origin.synthetic for origin in origins):
        limits.append("It has seen drawn faces only, no photo. On photos its results mean nothing.")
    licence = [f"Weights: {_stated(about, 'licence')}"]
    if training_data.weight_paths(config.get("init_from", "")):
        licence.append("The run began with other weights, whose licence may restrict these.")
    averaged = about.get("averaged_with", ())
    mean = f", the mean of its weights and those of {', '.join(map(code, averaged))}"
    made = [f"Checkpoint: step {step:,}{mean if averaged else ''}", f"Seed: {config.get('seed')}"]
    if tested is not None and tested.command:
        made.append(f"Training: {code(tested.command)}")
    made += ["All settings: `provenance.workdir_config` in `model.json`", *_versions()]
    return _document(
        name,
        architecture.section(loaded, system=config.get("system", "")),
        training_data.section(about, origins, training_data.splits(workdir)),
        run_results.section(tested, bool(averaged), loaded.temperature),
        limits,
        _stated(about, "contact"),
        licence,
        made,
    )


def of_converted(loaded: LoadedModel, name: str) -> str:
    """Return the card of a model that was converted from released weights, as Markdown.

    Args:
      loaded: the model; its provenance as `convert` records it.
      name: of the model.
    """
    about = loaded.provenance
    unknown = (
        "data, number of images and persons, who labelled them",
        "results, overall and by subgroup: nothing was measured when the weights were converted",
        *(() if about["preprocessing_certain"] else ("mean and deviation of the input: a guess",)),
        *(() if loaded.class_names else ("names of the classes",)),
    )
    listed = bullets(f"Not known here: {text}" for text in unknown)
    command = (
        f"python -m affect_jax.convert --architecture {about['architecture']} "
        f"--source {about['source']} --output {name}"
    )
    made = [
        f"Source: {code(about['source'])}, SHA-256 `{about['source_sha256']}`",
        f"Command: {code(command)}",
        f"Input: {plain(about['preprocessing_from'])}; classes: "
        f"{plain(about['classes_from'] or 'none')}",
        *_versions(),
    ]
    return _document(
        name,
        architecture.section(loaded),
        "## Training data\n\nThese weights were trained and released by another project: read "
        f"what it says.\n\n{listed}",
        "## Results\n\nNone. Measure the model on data of your own before you use it.",
        [*_LIMITS, "How good it is on your images is not known before you have measured it."],
        _FILL_IN,
        [f"Weights: {plain(about['licence'] or _FILL_IN)}"],
        made,
    )


def updated(card: str, old: LoadedModel, new: LoadedModel, names: tuple[str, str]) -> str:
    """Return the card of a model that is written again, with its name and temperature.

    All else stays as people may have edited it.

    Args:
      card: Markdown.
      old, new: the model before and now; they differ in the temperature alone.
      names: before and now.
    """
    title = "# Model card: "
    first, newline, rest = card.partition("\n")
    if first == f"{title}{plain(names[0])}":
        card = f"{title}{plain(names[1])}{newline}{rest}"
    if new.temperature == old.temperature:
        return card
    parts = re.split(r"(?m)^(?=## )", card)
    for i, part in enumerate(parts):
        if part.startswith(f"{architecture.TITLE}\n"):
            parts[i] = architecture.with_temperature(part, new)
        elif part.startswith(f"{run_results.TITLE}\n"):
            parts[i] = run_results.with_new_temperature(part, old.temperature, new.temperature)
    return "".join(parts)


def _document(
    name: str,
    model: str,
    data: str,
    results: str,
    limits: Sequence[str],
    contact: str,
    licence: Sequence[str],
    made: Sequence[str],
) -> str:
    parts = (
        f"# Model card: {plain(name)}",
        f"> {NOTICE}",
        model,
        data,
        results,
        _USE,
        f"## Limits\n\n{bullets(limits)}",
        _CONTEST,
        f"Contact: {contact}",
        f"## Licence\n\n{bullets(licence)}",
        f"## How it was made\n\n{bullets(made)}",
    )
    return "\n\n".join(parts) + "\n"


def _stated(about: Mapping[str, Any], key: str) -> str:
    return plain(about.get(key) or _FILL_IN)


def _versions() -> list[str]:
    return [
        f"Date: {time.strftime('%Y-%m-%d')}",
        f"Versions: affect_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}",
    ]
