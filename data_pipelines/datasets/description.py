"""Text that `prepare` prints: a data set's card, counts and differences."""

import collections
import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines import datasets
from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Published
from data_pipelines.sources.prepared import META_FILE, REJECTED_FILE

_SHOWN_REASONS = 8


def describe(name: str) -> str:
    """Return name, labels, splits, expected layout and where to apply, as text."""
    cls = datasets.builder_class(name)
    card = cls.card
    lines = [f"{name}: {card.title}"]
    configs = [f"{name}/{c.name}: {c.description}" for c in cls.BUILDER_CONFIGS]
    lines += [f"  config  {c}{' (default)' if not k else ''}" for k, c in enumerate(configs)]
    numbered = ", ".join(f"{i} {n}" for i, n in enumerate(card.class_names))
    labels = [x.replace("_", "/") for x in card.fields if x != "expression" or not numbered]
    lines.append(f"  labels  {'; '.join([*([numbered] if numbered else []), *labels])}")
    if card.attributes:
        lines.append("  subgroups  " + ", ".join(a for a, _ in card.attributes))
    if card.labellers:
        lines.append(f"  labelled by  {card.labellers}")
    for split, meaning in card.splits.items():
        counts = {key: p.examples[split] for key, p in cls.published.items() if split in p.examples}
        sizes = ", ".join(f"{n:,}{f' ({k})' if k else ''}" for k, n in counts.items())
        lines.append(f"  split   {split}: {meaning}{f'; {sizes} images' if sizes else ''}")
    lines.append("  expected in --manual_dir:")
    lines += [f"    {line}" for line in card.expected.strip("\n").splitlines()]
    return "\n".join([*lines, f"  layout  {card.checked}", f"  apply   {card.apply}"])


def compare(meta: Mapping[str, Any], published: Published) -> list[str]:
    """Return warnings for counts that differ from the published ones."""
    lines = []
    where = meta["dataset"] + (f" ({meta['release']})" if meta["release"] else "")
    for split, expected in published.examples.items():
        if split not in meta["splits"]:
            lines.append(f"{where}: split {split} is absent; published: {expected} images")
        elif (ours := meta["splits"][split]["examples"]) != expected:
            lines.append(f"{where} {split}: {ours} images, published: {expected}")
    for split, expected in published.groups.items():
        summary = meta["splits"].get(split)
        if summary and summary["persons"] != expected:
            lines.append(
                f"{where} {split}: {summary['persons']} {meta['person']}s, published: {expected}"
            )
    for split, classes in published.per_class.items():
        counts = tuple(meta["splits"].get(split, {}).get("per_class", ()))
        if counts and counts != tuple(classes):
            pairs = zip(meta["class_names"], counts, classes, strict=True)
            differing = ", ".join(f"{n} {a} (published {b})" for n, a, b in pairs if a != b)
            hint = ""
            if sorted(counts) == sorted(classes):
                hint = "; the same numbers in another order: the labels of this copy are permuted"
            lines.append(f"{where} {split}: {differing}{hint}")
    return lines


def print_summary(builder: FaceBuilder, existed: bool) -> None:
    """Print what was prepared and rejected; print wrong counts on stderr."""
    target = Path(builder.data_dir)
    meta = json.loads((target / META_FILE).read_text(encoding="utf-8"))
    print(f"{'already prepared' if existed else 'prepared'}: {target}")
    if existed:
        print("  (remove that folder to prepare it again)")
    if meta["release"]:
        print(f"  release found: {meta['release']}")
    for split, summary in meta["splits"].items():
        counts = zip(meta["class_names"], summary["per_class"], strict=True)
        classes = ", ".join(f"{n} {c}" for n, c in counts)
        persons = f", {summary['persons']} {meta['person']}s" if summary["persons"] else ""
        print(f"  {split}: {summary['examples']} images{persons}, {summary['rejected']} rejected")
        if classes:
            print(f"    {classes}")
    for line in compare(meta, builder.figures(meta["release"], meta["config"])):
        print(f"warning: {line}", file=sys.stderr)
    for reason, count in meta["passed_over"].items():
        print(f"  not used by this config: {count} x {reason}")
    for reason, count in meta["left_out"].items():
        print(f"  in no split: {count} x {reason}")
    with open(target / REJECTED_FILE, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    reasons = collections.Counter(row["reason"] for row in rows if row["split"])
    if rows:
        print(f"  rejected images: {target / REJECTED_FILE}")
        for reason, count in reasons.most_common(_SHOWN_REASONS):
            print(f"    {count} x {reason}")
