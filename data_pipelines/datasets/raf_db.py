"""RAF-DB, basic expressions (Li, Deng, Du 2017): web faces with 7 expressions.

`EmoLabel/list_patition_label.txt` (the authors' spelling) has lines such as `train_00001.jpg 5`
with 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral; ids here count from
0. `Annotation/manual/train_00001_manu_attri.txt` has five landmarks, then gender (0 male, 1 female,
2 unsure), race (0 Caucasian, 1 African-American, 2 Asian) and age (0: 0-3, 1: 4-19, 2: 20-39,
3: 40-69, 4: 70+), one number a line.

Configs: `aligned` (the authors' 100x100 images, which papers use) and `original` (images of
any size with the authors' face box). Sources: http://www.whdeng.cn/RAF/model1.html and the readme
of the annotation folder as quoted in public loaders. The per-class counts come from the label
list. Persons are not known.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, configs
from data_pipelines.datasets.layout import by_name, existing, find_root
from data_pipelines.schema import LABEL_ORDERS, MISSING_ID

LIST = "EmoLabel/list_patition_label.txt"
_LINE = re.compile(r"((train|test)_\d+)\.jpg\s+(-?\d+)", re.IGNORECASE)


class RafDb(FaceBuilder):
    """Builder of RAF-DB (basic), configs `aligned` and `original`."""

    name = "raf_db"
    BUILDER_CONFIGS = configs(
        {"aligned": "aligned images of 100x100", "original": "original images with a face box"}
    )
    card = Card(
        title="RAF-DB (basic)",
        class_names=LABEL_ORDERS["rafdb"],
        splits={"train": "official training set", "test": "official test set"},
        expected="""
basic/
  EmoLabel/list_patition_label.txt
  Image/aligned/train_00001_aligned.jpg ... test_0001_aligned.jpg ...
  Image/original/train_00001.jpg ...                  (config original)
  Annotation/manual/train_00001_manu_attri.txt ...    (gender, race, age)
  Annotation/boundingbox/train_00001_boundingbox.txt  (config original)
""",
        apply="http://www.whdeng.cn/RAF/model1.html (password on request, research only)",
        attributes=(
            ("gender", ("male", "female", "unsure")),
            ("race", ("caucasian", "african-american", "asian")),
            ("age", ("0-3", "4-19", "20-39", "40-69", "70+")),
        ),
        labellers="315 annotators, about 40 per image",
    )
    published: Mapping[str, Published] = {
        "": Published(
            examples={"train": 12271, "test": 3068},
            per_class={
                "train": (1290, 281, 717, 4772, 1982, 705, 2524),
                "test": (329, 74, 160, 1185, 478, 162, 680),
            },
        )
    }

    def locate(self) -> Mapping[str, Any]:
        reason = f"there is no {LIST}"
        root = self.need(find_root(self.manual_dir, _is_root), reason)
        labels = self.need(existing(root, LIST), reason)
        place = f"Image/{self.builder_config.name}"
        images = self.need(existing(root, place), f"there is no folder {place}")
        self.places = [images]
        rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
        for line in labels.read_text(encoding="utf-8-sig").splitlines():
            match = _LINE.fullmatch(line.strip())
            if match:
                rows[match[2].lower()].append((match[1].lower(), match[3]))
            elif line.strip():
                # Kept, so that a damaged line is counted and not lost.
                rows["train"].append((line.strip(), ""))
        return {split: (root, images, lines) for split, lines in rows.items()}

    def count(self, found: Any) -> int:
        return len(found[2])

    def records(self, found: tuple[Path, Path, list[tuple[str, str]]]) -> Iterator[Record]:
        root, images, rows = found
        there = by_name(images)
        listed = set()
        config = self.builder_config.name
        ending = "_aligned.jpg" if config == "aligned" else ".jpg"
        for stem, label in rows:
            file = f"{stem}{ending}"
            name = f"Image/{config}/{file}"
            if not label:
                yield Record(LIST, reject=f"line {stem!r} is not `train_00001.jpg 5`")
                continue
            if stem in listed:
                yield Record(LIST, reject=f"{stem} is listed before")
                continue
            listed.add(stem)
            record = Record(name, there.get(file, images / file), expression=int(label) - 1)
            if not 1 <= int(label) <= 7:
                record.reject = f"expression {label} is outside 1..7"
            record.attributes = _attributes(root / f"Annotation/manual/{stem}_manu_attri.txt")
            if config == "original":
                record.box = _box(root / f"Annotation/boundingbox/{stem}_boundingbox.txt")
            yield record


def _is_root(folder: Path) -> bool:
    # The release holds a list of the same name for the compound expressions.
    return folder.name.lower() != "compound" and existing(folder, LIST) is not None


def _attributes(path: Path) -> tuple[int, ...]:
    """Return gender, race and age, the last numbers of a file; -1 without a file."""
    limits = [len(values) for _, values in RafDb.card.attributes]
    try:
        words = path.read_text().split()[-3:]
        values = [int(float(w)) for w in words]
    except (OSError, ValueError):
        values = []
    if len(values) != len(limits):
        return (MISSING_ID,) * len(limits)
    return tuple(v if 0 <= v < n else MISSING_ID for v, n in zip(values, limits, strict=True))


def _box(path: Path) -> tuple[float, float, float, float] | None:
    try:
        x0, y0, x1, y1 = (float(v) for v in path.read_text().split()[:4])
    except (OSError, ValueError):
        return None
    return x0, y0, x1, y1
