"""Write the tables of a command: resumed after a crash, complete or absent at the end."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TextIO

from affect_jax.inference import prediction_run
from affect_jax.inference.face_predictions import FacePredictions, Predicted
from affect_jax.inference.face_table import NO_FACE
from affect_jax.inference.faces import Detector
from affect_jax.inference.frames import KnownFaces
from affect_jax.inference.inputs import Item, shard
from affect_jax.inference.overlay_files import OverlayFiles
from affect_jax.inference.prediction_progress import PredictionProgress
from affect_jax.inference.prediction_run import Settings
from affect_jax.inference.predictor import Predictor
from affect_jax.inference.writers import Printer, TableFile
from affect_jax.version import __version__

_SAVE_EVERY = 2.0  # seconds of work that a crash costs at most
_NAMED = 5


@dataclasses.dataclass
class Counts:
    """What a run has read and found.

    Attributes:
      files: photos and videos.
      failed: those of them with a row that holds an error.
      frames, faces, faceless: frames read, faces in them, frames without any.
      failing: place of the last item with an error.
      shown: place of the last item of which a picture could be decoded.
      blank: places of the items of which none could: they have no overlay.
    """

    files: int = 0
    failed: int = 0
    frames: int = 0
    faces: int = 0
    faceless: int = 0
    failing: int = -1
    shown: int = -1
    blank: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def of_position(cls, position: Any) -> Self:
        """Return what an earlier process noted with its position."""
        return cls(**position["counts"]) if position else cls()

    def add(self, other: "Counts") -> None:
        """Add the counts of another table."""
        for name in ("files", "failed", "frames", "faces", "faceless"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclasses.dataclass(frozen=True)
class Command:
    """What a run of the command reads and writes.

    Attributes:
      items: all that the inputs name.
      output: a file that ends in .csv, .parquet or .jsonl, or a folder; None: standard output.
      in_folder: `output` is a folder, for a table a video and one for all photos.
      table_format: of the tables in a folder.
      shard: (i, n): only the i-th of n parts, counted from 1.
      overlay: folder for photos and videos with what was found; None: none are drawn.
      overwrite: begin again instead of resuming.
      identity: what else determines the rows: the digest of the model, of files with boxes ...
    """

    items: Sequence[Item]
    output: pathlib.Path | None = None
    in_folder: bool = False
    table_format: str = "csv"
    shard: tuple[int, int] = (1, 1)
    overlay: pathlib.Path | None = None
    overwrite: bool = False
    identity: Mapping[str, str | int] = dataclasses.field(default_factory=dict)

    def tables(self) -> Iterator[tuple[pathlib.Path | None, list[Item]]]:
        """Yield the tables to write and the items in each."""
        part = shard(self.items, *self.shard)
        if self.output is None or not self.in_folder:
            yield self.output, part
            return
        number, count = self.shard
        photos = [item for item in part if not item.is_video]
        suffix = f"-{number}-of-{count}" if count > 1 else ""
        if photos:
            yield self.output / f"photos{suffix}.{self.table_format}", photos
        for item in part:
            if item.is_video:
                yield self.output / f"{item.name}.{self.table_format}", [item]


class TableRun:
    """Predicts the items of a command and writes its tables.

    Args:
      predictor: the model.
      command: what to read and write.
      settings: how to predict.
      detector, known: see `prediction_run.predictions`.
      stream: for progress and messages; default: stderr.
    """

    def __init__(
        self,
        predictor: Predictor,
        command: Command,
        settings: Settings,
        *,
        detector: Detector | None = None,
        known: KnownFaces | None = None,
        stream: TextIO | None = None,
    ):
        self._predictor, self._command, self._settings = predictor, command, settings
        self._detector, self._known = detector, known
        self._stream = sys.stderr if stream is None else stream
        self._table = prediction_run.table_of(predictor, settings)

    def run(self) -> Counts:
        """Write all tables; return what was read and found, in earlier runs too."""
        total = Counts()
        for path, items in self._command.tables():
            total.add(self._write(path, items))
        return total

    def _write(self, path: pathlib.Path | None, items: list[Item]) -> Counts:
        target: TableFile | Printer
        if path is None:
            target = Printer(sys.stdout, self._table)
        else:
            overwrite = self._command.overwrite
            target = TableFile(path, self._table, self._identity(items), overwrite=overwrite)
        counts = Counts.of_position(target.position)
        try:
            if self._command.overlay is not None and target.position:
                blank, done = set(counts.blank), enumerate(items[: target.position["item"]])
                drawable = [item for place, item in done if place not in blank]
                self._draw_missing(self._command.overlay, drawable)
            if target.finished:
                print(f"{path} is complete", file=self._stream)
            else:
                self._fill(target, items, counts)
        finally:
            target.close()
        return counts

    def _draw_missing(self, folder: pathlib.Path, done: Sequence[Item]) -> None:
        """Draw what stands in the table already and has no overlay."""
        known = OverlayFiles(folder, done)
        missing = [item for item in done if not known.path(item).exists()]
        if not missing:
            return
        files = OverlayFiles(folder, missing)
        progress = PredictionProgress(missing, stream=self._stream)
        with contextlib.closing(files), contextlib.closing(progress):
            for predicted in self._predictions(missing):
                files.add(predicted)
                _show(progress, predicted)

    def _identity(self, items: Sequence[Item]) -> dict[str, Any]:
        """Return what determines the rows of a table."""
        described = [(item.path, item.boxes, item.fault) for item in items]
        settings = {name: getattr(self._settings, name) for name in Settings.fields()}
        return {
            "affect_jax": __version__,
            **self._command.identity,
            **settings,
            "files": len(items),
            "inputs": hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16],
        }

    def _predictions(
        self, items: Sequence[Item], position: dict[str, Any] | None = None
    ) -> FacePredictions:
        return prediction_run.predictions(
            self._predictor,
            items,
            self._settings,
            detector=self._detector,
            known=self._known,
            keep_images=self._command.overlay is not None,
            position=position,
        )

    def _fill(self, target: TableFile | Printer, items: Sequence[Item], counts: Counts) -> None:
        overlay = None
        begin = position = target.position
        if self._command.overlay is not None:
            overlay = OverlayFiles(self._command.overlay, items)
            # The overlay of a video is drawn from its first frame, or not at all.
            begin = position and {"item": position["item"], "frame": 0}
        predictions = self._predictions(items, begin)
        progress = PredictionProgress(items, stream=self._stream)
        progress.start_at(position["item"] if position else 0)
        saved, is_new = time.monotonic(), not position

        def here() -> dict[str, Any]:
            position = predictions.position()
            # Where a file ends, and before what says so, the position is at the next one.
            counts.files = position["item"]
            return position | {"counts": dataclasses.asdict(counts)}

        try:
            with contextlib.closing(iter(predictions)) as results:
                for predicted in results:
                    if overlay is not None:
                        overlay.add(predicted)
                    _show(progress, predicted)
                    is_new = is_new or not _is_before(predicted, position)
                    if not is_new:
                        continue
                    target.write(predicted.rows)
                    self._count(predicted, items, counts, progress)
                    if time.monotonic() - saved >= _SAVE_EVERY:
                        target.save(here())
                        saved = time.monotonic()
            target.finish(here())
        finally:
            progress.close()
            if overlay is not None:
                overlay.close()

    def _count(
        self,
        predicted: Predicted,
        items: Sequence[Item],
        counts: Counts,
        progress: PredictionProgress,
    ) -> None:
        frame, rows = predicted.frame, predicted.rows
        faces = sum(row["face"] >= 0 for row in rows)
        is_frame = not frame.is_end and frame.number >= 0
        counts.frames += is_frame
        counts.faces += faces
        counts.faceless += any(row["error"] == NO_FACE for row in rows)
        if any(row["face"] >= 0 or row["error"] == NO_FACE for row in rows):
            counts.shown = frame.place
        elif frame.number < 0 and frame.place not in (counts.shown, *counts.blank[-1:]):
            counts.blank.append(frame.place)  # nothing came before the end, or what says why
        errors = [row["error"] for row in rows if row["error"] not in ("", NO_FACE)]
        if errors and counts.failing != frame.place:
            counts.failing = frame.place
            counts.failed += 1
            if counts.failed <= _NAMED:
                progress.log(f"{items[frame.place].path}: {errors[0]}")
            elif counts.failed == _NAMED + 1:
                progress.log("more files have errors; the column error of the table says which")


def _is_before(predicted: Predicted, position: Mapping[str, Any]) -> bool:
    """Return whether the rows of a frame stand in the table, by the position noted with it."""
    frame = predicted.frame
    return frame.place == position["item"] and 0 <= frame.number < position["frame"]


def _show(progress: PredictionProgress, predicted: Predicted) -> None:
    frame = predicted.frame
    is_frame = not frame.is_end and frame.number >= 0
    faces = sum(row["face"] >= 0 for row in predicted.rows)
    progress.update(frame.place, frame.part, int(is_frame), faces)
