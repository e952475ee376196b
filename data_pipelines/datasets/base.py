"""Parts that all builders share: check images, write records, count the left-out.

A builder is a TFDS builder. Two things differ from a plain one. Records are written directly to
ArrayRecord shards, in the order in which they come. TFDS's own writer would need TensorFlow for a
split of more than 1 GB, and it would not keep frames of a video in order. Next to the shards are
`labels-SPLIT.npz` (class, group, valence and arousal of every record), `affect.json` (class names,
groups, counts, the release that was found) and `rejected.csv`. Everything is written into a
temporary folder that TFDS renames at the end, so a data set is complete or absent.
"""

import abc
import collections
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.datasets.card import Card, Published, Record, Reject
from data_pipelines.datasets.layout import LayoutError, layout_error
from data_pipelines.datasets.leftovers import Leftovers
from data_pipelines.datasets.writing import (
    WINDOW,
    Book,
    Names,
    batches,
    in_order,
    is_stored,
    read,
    storable,
    write_shards,
)
from data_pipelines.face_finder import FaceFinder
from data_pipelines.landmarker import Landmarker, face_box
from data_pipelines.schema import MISSING_ID, NUM_LANDMARKS
from data_pipelines.sources.prepared import META_FILE, REJECTED_FILE

VERSION = "1.0.0"
_PIXELS = "pixels"

Example = dict[str, Any]
Found = TypeVar("Found")


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS has no types
    """Base of the builders; a subclass gives `card`, `locate` and `records`.

    Attributes:
      card: description of the data set.
      published: counts to compare with, by release or config ("" for all).
      manual_dir: the user's folder; without it, TFDS's own `manual_dir` is read.
      workers: threads that read and check images.
      check: "full" decodes every image, "header" trusts the file (faster on slow disks).
      progress: called as `progress(split, done, total)`, if set; total is -1 where unknown.
      landmarker: if set, recomputes the landmarks.
      finder: if set, gives boxes to records without one; images without a face are rejected.
      release: which release was found, once located.
      places: folders of images, once located; images in them that no record names are counted.
      left: what belongs to no split.
    """

    VERSION = tfds.core.Version(VERSION)
    # TFDS looks next to the code for checksums of downloads, with a package it does not require.
    code_path = None
    card: ClassVar[Card]
    published: Mapping[str, Published] = {}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See `python -m data_pipelines.prepare --dataset list`."

    def __init__(self, *, manual_dir: Path | None = None, **kwargs: Any):
        self._own_folder = manual_dir is not None
        self.manual_dir = manual_dir or Path()
        self.workers = 4
        self.check = "full"
        self.progress: Callable[[str, int, int], None] | None = None
        self.landmarker: Landmarker | None = None
        self.finder: FaceFinder | None = None
        self.release = ""
        self.places: list[Path] = []
        self.left = Leftovers()
        self._books: dict[str, Book] = {}
        self._groups, self._persons = Names(), Names()
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    # What a subclass gives.

    @abc.abstractmethod
    def locate(self) -> Mapping[str, Any]:
        """Find the files in `manual_dir`: split name -> what `records` needs.

        Sets `places`, and `release` if there are several. It is called more than once; rows that
        belong to no split go to `left`.

        Raises:
          LayoutError: made by `wrong_folder`, when the layout is not there.
        """

    @abc.abstractmethod
    def records(self, found: Any) -> Iterator[Record]:
        """Yield the records of one split in a fixed order; cheap: no image is read here."""

    def count(self, found: Any) -> int:
        """Return the number of records of a split, for the progress bar; -1 if unknown."""
        return -1

    def class_names(self) -> tuple[str, ...]:
        """Return the label order of this config."""
        return self.card.class_names

    def attributes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the names of the subgroups and of their values."""
        return self.card.attributes

    def roles(self) -> dict[str, str]:
        """Return which split serves as train, validation and test."""
        return dict(self.card.roles) or {split: split for split in self.card.splits}

    def identity(self) -> str:
        """Return a digest of the rows that are prepared, for own data; "" for a known data set."""
        return ""

    def has_probs(self) -> bool:
        """Return whether the records of this config hold votes."""
        return "expression_probs" in self.card.fields

    def knows_persons(self) -> bool:
        """Return whether the names of persons say more than which image it is."""
        return any(p >= 0 for book in self._books.values() for p in book.persons)

    @classmethod
    def figures(cls, release: str, config: str) -> Published:
        """Return the published counts of a release or config."""
        keys = [key for key in (release, config, "") if key in cls.published]
        return cls.published[keys[0]] if keys else Published()

    # What a subclass uses.

    def need(self, found: Found | None, reason: str) -> Found:
        """Return what was found; raise `wrong_folder(reason)` if it is None or empty."""
        if not found:
            raise self.wrong_folder(reason)
        return found

    def wrong_folder(self, reason: str) -> LayoutError:
        """Make the error for a folder that is not the data set."""
        return layout_error(self.card.title, self.manual_dir, self.card.expected, reason)

    # TFDS.

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "name": tfds.features.Text(),
            "expression": tfds.features.Scalar(np.int32),
            "valence_arousal": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "landmarks": tfds.features.Tensor(shape=(NUM_LANDMARKS, 2), dtype=np.float32),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "group": tfds.features.Scalar(np.int32),
        }
        if self.attributes():
            shape = (len(self.attributes()),)
            features["attributes"] = tfds.features.Tensor(shape=shape, dtype=np.int32)
        if self.has_probs():
            shape = (len(self.class_names()),)
            features["expression_probs"] = tfds.features.Tensor(shape=shape, dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.card.title,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Example]]]:
        if not self._own_folder:
            self.manual_dir = Path(dl_manager.manual_dir)
        self.left = Leftovers()
        found = self.locate()
        return {split: self._generate_examples(split, where) for split, where in found.items()}

    def _generate_examples(self, split: str, found: Any) -> Iterator[tuple[int, Example]]:
        book = self._books[split] = Book()
        report = self.progress or (lambda split, done, total: None)
        total = self.count(found)
        done = 0
        loaded = in_order(self._load, self.records(found), self.workers)
        for record, example in (
            _with_landmarks(loaded, self.landmarker) if self.landmarker else loaded
        ):
            done += 1
            report(split, done, total)
            rejected = isinstance(example, Reject)
            if isinstance(record.image, Path) and (not rejected or record.image.is_file()):
                self.left.see(record.image)
            if isinstance(example, Reject):
                book.reject(record, str(example))
                continue
            example["group"] = self._groups.number(record.group)
            book.add(example, record, self._persons.number(record.person or record.group))
            yield len(book.labels) - 1, example
        report(split, done, done)

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[Any]:
        """Stream every split to its shards (TFDS calls this inside its temporary folder)."""
        self._books = {}
        self._groups, self._persons = Names(), Names()
        serializer = tfds.core.example_serializer.ExampleSerializer(
            self.info.features.get_serialized_info()
        )
        infos = []
        for split, examples in self._split_generators(dl_manager).items():
            template = self._get_filename_template(split_name=split)
            encoded = (
                serializer.serialize_example(self.info.features.encode_example(example))
                for _, example in examples
            )
            lengths, size = write_shards(encoded, template)
            if not lengths:
                rejected = self._books[split].rejected
                reasons = collections.Counter(reason for _, reason in rejected)
                raise self.wrong_folder(
                    f"split {split} has no usable image ({len(rejected)} rejected, most "
                    f"often: {reasons.most_common(1)[0][0] if reasons else 'nothing was there'})",
                )
            infos.append(
                tfds.core.SplitInfo(
                    name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
                )
            )
        self.left.count_unseen(self.places)
        self.left.report(self.name)
        self._write_side_files()
        return infos

    def _load(self, record: Record) -> Example | Reject:
        try:
            return self._example(record)
        except Reject as e:
            return e

    def _example(self, record: Record) -> Example:
        if record.reject:
            raise Reject(record.reject)
        data = read(record.image)
        pixels = None
        if self.check == "full" or self.landmarker or self.finder or not is_stored(data):
            data, pixels = storable(data)

        def filled(value: Any, *shape: int) -> np.ndarray:
            array = np.full(shape, np.nan, np.float32)
            if value is not None:
                array[:] = value
            return array

        example = {
            "image": data,
            "name": record.name,
            "expression": record.expression,
            "valence_arousal": np.array([record.valence, record.arousal], np.float32),
            "landmarks": filled(record.landmarks, NUM_LANDMARKS, 2),
            "box": filled(record.box, 4),
        }
        if self.attributes():
            missing = (MISSING_ID,) * len(self.attributes())
            example["attributes"] = np.array(record.attributes or missing, np.int32)
        if self.has_probs():
            example["expression_probs"] = filled(record.probs, len(self.class_names()))
        if self.finder is not None and pixels is not None:
            _add_box(example, pixels, self.finder)
        if self.landmarker is not None:
            example[_PIXELS] = pixels
        return example

    def _write_side_files(self) -> None:
        folder = Path(self.data_dir)
        for split, book in self._books.items():
            np.savez(
                folder / f"labels-{split}.npz",
                labels=np.array(book.labels, np.int32),
                groups=np.array(book.groups, np.int32),
                persons=np.array(book.persons, np.int32),
                # Float64: cleaning rules have thresholds that float32 rounds across.
                valence_arousal=np.array(book.valence_arousal, np.float64).reshape(-1, 2),
            )
        meta = {
            "dataset": self.name,
            "config": self.builder_config.name if self.builder_config else "",
            "release": self.release,
            "identity": self.identity(),
            "class_names": list(self.class_names()),
            "group": self.card.group,
            "person": self.card.person or self.card.group,
            "group_names": list(self._groups.ids),
            "person_names": list(self._persons.ids),
            "attributes": [[name, list(values)] for name, values in self.attributes()],
            "roles": self.roles(),
            "has_persons": self.knows_persons(),
            "lost_persons": {s: self._lost(b) for s, b in self._books.items()},
            "left_out": self.left.summary(),
            "passed_over": dict(self.left.passed),
            "splits": {s: b.summary(len(self.class_names())) for s, b in self._books.items()},
        }
        if not meta["has_persons"]:
            for summary in meta["splits"].values():
                summary["persons"] = 0
        (folder / META_FILE).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        with open(folder / REJECTED_FILE, "w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            writer.writerow(["split", "file", "reason"])
            for split, book in self._books.items():
                writer.writerows((split, *row) for row in book.rejected)
            writer.writerows(("", name, reason) for name, reason, _ in self.left.entries)

    def _lost(self, book: Book) -> list[str]:
        """Return persons without a usable image, who still count in drawn splits.

        The validation split is drawn with them too.
        """
        there = set(book.persons)
        return sorted(p for p in book.rejected_persons if self._persons.ids.get(p) not in there)


def _add_box(example: Example, pixels: np.ndarray, finder: FaceFinder) -> None:
    """Give an example without a box the one around its landmarks, or one that is found.

    Raises:
      Reject: no face is found.
    """
    if np.isfinite(example["box"]).all():
        return
    if np.isfinite(example["landmarks"]).all():
        # Landmarks lie between pixel centres, boxes between edges.
        example["box"] = face_box(example["landmarks"], example["box"], pixels.shape) + 0.5
        return
    rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels
    box = finder(rgb)
    if box is None:
        raise Reject("the detector finds no face")
    example["box"] = np.asarray(box, np.float32)


def _with_landmarks(
    loaded: Iterable[tuple[Record, Example | Reject]], landmarker: Landmarker
) -> Iterator[tuple[Record, Example | Reject]]:
    """Replace the landmarks batch by batch; keep rejected records in order."""
    for batch in batches(loaded, WINDOW):
        good = [example for _, example in batch if not isinstance(example, Reject)]
        pixels = [example.pop(_PIXELS) for example in good]
        boxes = [
            face_box(e["landmarks"], e["box"], p.shape) for e, p in zip(good, pixels, strict=True)
        ]
        if good:
            rgb = [cv2.cvtColor(p, cv2.COLOR_GRAY2RGB) if p.ndim == 2 else p for p in pixels]
            points = landmarker(rgb, np.stack(boxes))
            for example, found in zip(good, points, strict=True):
                example["landmarks"] = np.asarray(found, np.float32)
        yield from batch
