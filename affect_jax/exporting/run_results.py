"""The results of a run's test, overall and by subgroup, for a model card."""

import dataclasses
import logging
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from affect_jax.errors import UserError
from affect_jax.evaluation import subgroups
from affect_jax.evaluation.subgroups import Subgroup
from affect_jax.exporting.markdown import plain
from affect_jax.report.run import read_run
from affect_jax.runtime import count_images, results_table
from affect_jax.runtime.tables import Results, label, markdown_table, number

log = logging.getLogger(__name__)

TITLE = "## Results"
_CALIBRATION = re.compile(r"\b(ECE|NLL|calibration error|negative log-likelihood)\b", re.IGNORECASE)
_CHANGED = "Since then the temperature"
_NOT_OF_THESE = (
    "calibration error (ECE) and negative log-likelihood above are not of the probabilities that "
    "the model gives."
)
_RECALL = "recall_"
_NOT_SHOWN = (_RECALL, "loss")
_WORST = 3


@dataclasses.dataclass(frozen=True)
class Tested:
    """The test of a run.

    Attributes:
      step: of the checkpoint that was tested.
      is_this_model: whether that is the checkpoint of the card.
      final: the last row of the test.
      results: metrics by column, as in `report.run.Run`.
      persons: in the test split; None if not known.
      groups: subgroups; None if the stored predictions are not of this test.
      command: that trained the model; empty if not recorded.
    """

    step: int
    is_this_model: bool
    final: Mapping[str, Any]
    results: Results
    persons: int | None
    groups: Sequence[Subgroup] | None
    command: str


def read(workdir: pathlib.Path, step: int) -> Tested | None:
    """Return the test of the run in `workdir`; None if it is not finished.

    Args:
      workdir: of the run.
      step: of the checkpoint of the card.
    """
    try:
        run = read_run(workdir)
    except (UserError, OSError, ValueError, zipfile.BadZipFile) as error:
        log.warning("the model card has no results: %s", error)
        return None
    is_whole = subgroups.belong_to(run.stored, run.final)
    tested = run.final.get("checkpoint", run.final["step"])
    return Tested(
        step=tested,
        is_this_model=tested == step,
        final=run.final,
        results=run.results,
        persons=run.about.get("splits", {}).get("test", {}).get("persons"),
        groups=subgroups.measure(run.stored) if is_whole else None,
        command=run.about.get("command", ""),
    )


def section(tested: Tested | None, averaged: bool = False, temperature: float = 1.0) -> str:
    """Return the section of a model card, as Markdown.

    Args:
      tested: the test of the run; None if there is none.
      averaged: whether the weights of the card are the mean of the run's and others.
      temperature: of the model; the test has measured the logits as they are.
    """
    if averaged:
        return f"{TITLE}\n\nNone of these weights: the run tested its own, not their mean."
    if tested is None:
        return f"{TITLE}\n\nNone: the run has no finished test."
    if not tested.is_this_model:
        return (
            f"{TITLE}\n\nNone of this checkpoint: the run tested its checkpoint of step "
            f"{tested.step:,}."
        )
    images = count_images(tested.final.get("images", 0), tested.final.get("images_total"))
    persons = f" of {tested.persons:,} persons" if tested.persons else ""
    shown = {
        column: {k: v for k, v in figures.items() if not k.startswith(_NOT_SHOWN)}
        for column, figures in tested.results.items()
    }
    parts = [
        f"{TITLE}\n\nOn the test split: {images}{persons}, from the source of the training "
        "images. The checkpoint was chosen on the validation split, not on these images.",
        results_table(shown, markdown=True),
        *_worst(tested.final),
        "### Subgroups",
        _subgroups(tested.groups),
    ]
    if temperature != 1:
        parts.append(f"The test was without the temperature of {temperature:.4g}: {_NOT_OF_THESE}")
    return "\n\n".join(parts)


def with_new_temperature(results: str, old: float, new: float) -> str:
    """Return the section of a card with a note that calibration was measured before."""
    paragraphs = results.rstrip().split("\n\n")
    kept = [text for text in paragraphs if not text.startswith(_CHANGED)]
    if not any(map(_CALIBRATION.search, kept)):
        return results
    if kept != paragraphs:  # they were measured before an earlier change
        note = f"{_CHANGED} was changed, now to {new:.4g}"
    else:
        note = f"{_CHANGED} was changed from {old:.4g} to {new:.4g}"
    kept.append(f"{note}: {_NOT_OF_THESE}")
    return "\n\n".join(kept) + "\n\n"


def _worst(final: Mapping[str, Any]) -> list[str]:
    """Return the classes that are found least often."""
    recalls = {k.removeprefix(_RECALL): v for k, v in final.items() if k.startswith(_RECALL)}
    found = sorted((v, k) for k, v in recalls.items() if v is not None)[:_WORST]
    if not found:
        return []
    listed = ", ".join(f"{plain(name)} {number(_RECALL, value)}" for value, name in found)
    return [f"Classes found least often (recall): {listed}."]


def _subgroups(groups: Sequence[Subgroup] | None) -> str:
    if groups is None:
        return "Not measured: the stored predictions are of another test."
    if not groups:
        return (
            "Not measured: the data have no attributes, such as gender, race, age or culture. "
            "Nothing is known of differences between groups of people."
        )
    names = [name for name in subgroups.FIGURES if any(name in g.figures for g in groups)]
    head = ["attribute: value", "images", *map(label, names)]
    body = [
        [
            plain(f"{group.attribute}: {group.value}"),
            f"{group.images:,}",
            *(number(name, group.figures.get(name)) for name in names),
        ]
        for group in groups
    ]
    return (
        f"{markdown_table(head, body)}\n\nAn accuracy of n images is uncertain by up to "
        "1/sqrt(n), and by more if several show the same person. Other groups were not measured."
    )
