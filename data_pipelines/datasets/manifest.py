"""The user's own images: a CSV or JSONL manifest, or a folder of class folders.

`docs/data.md` describes the columns (path, expression, valence, arousal, landmarks, box, person,
video, split, gender ...). The config is named after the file or folder, so that several manifests
can lie in one data folder: `manifest/faces` for faces.csv. Several manifests with commas between
them become one data set: `manifest/a_b` for a.csv,b.csv. The column `split` is followed, and rows
without a split follow their person. Without such a column, all rows are one split, "full", which
training divides by person.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Config, Record
from data_pipelines.datasets.layout import layout_error
from data_pipelines.protocols.persons import SPLIT_NAMES, follow_persons
from data_pipelines.schema import DataError
from data_pipelines.sources import table as table_lib
from data_pipelines.sources.manifest_file import split_paths

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


class Manifest(FaceBuilder):
    """Builder for a manifest or a folder; needs `manual_dir` when it is made."""

    name = "manifest"
    card = Card(
        title="Own images (manifest or folder)",
        class_names=(),
        splits={"full": "or train, validation and test, as the manifest's column `split` says"},
        expected="""
faces.csv (or .jsonl) with columns path,expression,...       or   angry/*.jpg
and the images it names                                         happy/*.jpg ...
(--manual_dir may be the file itself,                             (or train/angry/*.jpg ...)
 or several: a.csv,b.csv)
""",
        apply="your own files",
        checked="this project's own format",
        group="video or person",
        person="person",
        fields=("expression", "valence_arousal", "landmarks"),
    )

    def __init__(self, *, manual_dir: Path, **kwargs: Any):
        manual_dir = Path(manual_dir)
        places = split_paths(manual_dir)
        try:
            files = [file for place in places if (file := _manifest_file(place))]
            if len(files) < len(places) > 1:
                raise DataError("several data sets are joined as manifests: a.csv,b.csv")
            read = table_lib.read_manifest if files else table_lib.read_folder
            given = files[0] if len(files) == 1 else ",".join(map(str, files)) or manual_dir
            self._table = read(given, max_bad_fraction=1.0)
        except DataError as e:
            if len(places) > 1:
                raise DataError(f"{manual_dir}: {e}") from e
            expected = self.card.expected
            raise layout_error(self.card.title, manual_dir, expected, str(e)) from e
        stems = "_".join(file.stem for file in files) or manual_dir.stem
        config = kwargs.pop("config", None) or re.sub(r"\W+", "_", stems)
        kwargs["config"] = Config(name=config, description=str(given))
        super().__init__(manual_dir=manual_dir, **kwargs)

    def locate(self) -> Mapping[str, Any]:
        table = self._table
        if table.split is None:
            found = {"full": np.arange(len(table.paths))}
        else:
            split = follow_persons(table.persons, table.split)
            found = {name: np.flatnonzero(split == k) for k, name in enumerate(SPLIT_NAMES)}
        # Rows that could not be read belong to no split; they go with the first.
        bad = table.bad
        result = {}
        for name, rows in found.items():
            if len(rows):
                result[name], bad = (rows, bad), []
        return result

    def count(self, found: tuple[np.ndarray, list[tuple[int, str, str]]]) -> int:
        return len(found[0]) + len(found[1])

    def class_names(self) -> tuple[str, ...]:
        return self._table.class_names

    def attributes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        table = self._table
        return tuple(zip(table.attribute_names, table.attribute_values, strict=True))

    def knows_persons(self) -> bool:
        return self._table.has_persons

    def identity(self) -> str:
        """Return a digest of what the rows say, in any order.

        Frames of a video must be in one order.
        """
        table = self._table
        columns = [table.expression, table.valence_arousal, table.landmarks, table.box, table.split]
        names = (*table.group_names, "")  # -1: no group
        frames: Counter[int] = Counter()
        rows = []
        for i, (path, person) in enumerate(zip(table.paths, table.persons, strict=True)):
            track = int(table.tracks[i])
            frames[track] += track >= 0
            said = (path, person, names[table.groups[i]], frames[track], self._attributes(i))
            cells = [
                b"none" if c is None else np.ascontiguousarray(c[i]).tobytes() for c in columns
            ]
            rows.append(hashlib.sha256(b"/".join([repr(said).encode(), *cells])).digest())
        fixed = repr((table.class_names, table.attribute_names)).encode()
        return hashlib.sha256(b"".join([fixed, *sorted(rows)])).hexdigest()

    def _attributes(self, row: int) -> tuple[str, ...]:
        table = self._table
        if table.attributes is None:
            return ()
        pairs = zip(table.attributes[row].tolist(), table.attribute_values, strict=True)
        return tuple(values[code] if code >= 0 else "" for code, values in pairs)

    def roles(self) -> dict[str, str]:
        return {name: name for name in self.locate()}

    def records(self, found: tuple[np.ndarray, list[tuple[int, str, str]]]) -> Iterator[Record]:
        table = self._table
        rows, bad = found
        for row, path, reason in bad:
            line = table.origins.line(row)
            yield Record(f"{path or '(no path)'} (row {line})", reject=reason)
        for i in rows.tolist():
            yield Record(
                table.paths[i],
                table.root / table.paths[i],
                expression=int(table.expression[i]),
                valence=float(table.valence_arousal[i, 0]),
                arousal=float(table.valence_arousal[i, 1]),
                landmarks=None if table.landmarks is None else table.landmarks[i],
                box=None if table.box is None else tuple(table.box[i].tolist()),
                group=table.group_names[table.groups[i]] if table.groups[i] >= 0 else "",
                # Always the name in the table, so that training cuts these records as it cuts the
                # table: without persons that is the path, which two rows may share.
                person=table.persons[i],
                attributes=() if table.attributes is None else tuple(table.attributes[i].tolist()),
            )


def _manifest_file(place: Path) -> Path | None:
    """Return the manifest (`place`, or the only one in it); None for a class tree.

    Raises:
      DataError: a folder holds several manifests.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        return None
    files = [p for p in sorted(place.iterdir()) if p.suffix.lower() in _SUFFIXES]
    manifests = [p for p in files if _names_paths(p)]
    if len(manifests) > 1:
        listed = ", ".join(p.name for p in manifests[:8])
        raise DataError(
            f"{len(manifests)} manifests ({listed}); point --manual_dir to one of them, or join "
            "several with commas between their paths"
        )
    # A table without a column `path` is not a manifest. A single one is read, to report this.
    return manifests[0] if manifests else files[0] if len(files) == 1 else None


def _names_paths(file: Path) -> bool:
    """Return whether the first line of a file names a column `path`."""
    with open(file, encoding="utf-8-sig", errors="replace") as f:
        first = f.readline(100_000).lower()
    names = re.split(r"[,;\t:{}]", first)
    return "path" in {n.strip().strip("\"'").strip() for n in names}
