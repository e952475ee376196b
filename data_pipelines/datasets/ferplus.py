"""FER+: ten votes for every image of FER-2013 (Barsoum et al. 2016).

`fer2013new.csv` has, for each row of `fer2013.csv`, Usage, Image name and the votes for neutral,
happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF (no face). Rows without a
name were taken out by the authors.

* `votes` (default): the votes for the 8 expressions as a distribution in `expression_probs`; the
  class is the one with most votes, -1 at a tie. Images with at least as many votes for unknown
  and NF as for the expressions are left out. [The rule is ours.]
* `majority`: the authors' majority rule. Single votes are dropped as slips; the class is the one
  with more than half of the remaining votes; all else, unknown and NF are left out. Training sees
  that class alone, without votes.

Source: https://github.com/microsoft/FERPlus (layout and majority rule). Papers differ in the counts
after the rule, so none are compared.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Record, configs
from data_pipelines.datasets.fer2013 import (
    FILES,
    USAGES,
    header_problem,
    leave_out_unknown,
    png_maker,
    read_header,
    rows,
)
from data_pipelines.datasets.layout import find
from data_pipelines.schema import LABEL_ORDERS, MISSING_ID

VOTES = "fer2013new.csv"
COLUMNS = (*LABEL_ORDERS["ferplus"], "unknown", "NF")
_NUM_CLASSES = 8


class FerPlus(FaceBuilder):
    """Builder of FER+, configs `votes` and `majority`."""

    name = "ferplus"
    BUILDER_CONFIGS = configs(
        {"votes": "votes as a distribution", "majority": "images with a majority only"}
    )
    card = Card(
        title="FER+",
        class_names=LABEL_ORDERS["ferplus"],
        splits={"train": "Training", "validation": "PublicTest", "test": "PrivateTest"},
        expected="""
fer2013.csv        (the images, from FER-2013)
fer2013new.csv     (the votes, from github.com/microsoft/FERPlus)
""",
        apply="https://github.com/microsoft/FERPlus (votes) and FER-2013 (images)",
        fields=("expression", "expression_probs"),
        labellers="ten crowd workers per image",
    )

    def locate(self) -> Mapping[str, Any]:
        images = self.need(find(self.manual_dir, FILES), "there is no fer2013.csv")
        votes = self.need(find(self.manual_dir, (VOTES,)), f"there is no {VOTES}")
        problem = header_problem(images)
        header = [c.strip().lower() for c in read_header(votes)]
        absent = [c for c in ("Usage", "Image name", *COLUMNS) if c.lower() not in header]
        if absent and not problem:
            problem = f"{votes.name} has no column {', '.join(absent)}"
        if problem:
            raise self.wrong_folder(problem)
        ours, theirs = ([row["usage"] for row in rows(table)] for table in (images, votes))
        leave_out_unknown(self, theirs, votes.name)
        if ours != theirs:
            raise self.wrong_folder(
                f"{images.name} ({len(ours)} rows) and {votes.name} ({len(theirs)} rows) do not "
                "belong together: their Usage columns differ"
            )
        return {
            split: (images, votes, usage, theirs.count(usage)) for split, usage in USAGES.items()
        }

    def has_probs(self) -> bool:
        return self.builder_config.name == "votes"

    def count(self, found: tuple[Path, Path, str, int]) -> int:
        return found[3]

    def records(self, found: tuple[Path, Path, str, int]) -> Iterator[Record]:
        images, votes, usage, _ = found
        rule = majority if self.builder_config.name == "majority" else distribution
        for number, (row, vote) in enumerate(zip(rows(images), rows(votes), strict=True)):
            if row["usage"] != usage:
                continue
            name = vote["image name"]
            record = Record(name or f"{votes.name} row {number}", png_maker(row["pixels"]))
            try:
                counts = np.array([int(vote[c.lower()]) for c in COLUMNS])
                record.expression, record.probs, record.reject = rule(counts)
            except ValueError:
                record.reject = "votes are not whole numbers"
            if not name:
                record.reject = "taken out by the authors (no image name)"
            yield record


def distribution(counts: np.ndarray) -> tuple[int, np.ndarray | None, str]:
    """Return class (or -1), distribution over 8 expressions, reject reason (or "")."""
    emotions, others = counts[:_NUM_CLASSES], counts[_NUM_CLASSES:]
    if emotions.sum() <= others.sum():
        return MISSING_ID, None, "at least half of the votes are unknown or no face"
    best = np.flatnonzero(emotions == emotions.max())
    label = int(best[0]) if len(best) == 1 else MISSING_ID
    return label, (emotions / emotions.sum()).astype(np.float32), ""


def majority(counts: np.ndarray) -> tuple[int, np.ndarray | None, str]:
    """Return the same as `distribution` by the authors' majority rule, without votes."""
    kept = np.where(counts > 1, counts, 0)
    best = int(kept.argmax())
    if 2 * kept[best] <= kept.sum():
        return MISSING_ID, None, "no class has more than half of the votes"
    if best >= _NUM_CLASSES:
        return MISSING_ID, None, f"most votes are for {COLUMNS[best]}"
    return best, None, ""
