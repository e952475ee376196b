"""Rows of `metrics.jsonl` and their copy as TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from affect_jax.runtime.files import explained, write_atomically
from affect_jax.runtime.workdir import EVALUATIONS_FILE, METRICS_FILE

log = logging.getLogger(__name__)

_RESERVED = frozenset({"step", "split", "time", "final"})
# Fields of a row that are not metrics.
NOT_METRICS = _RESERVED | {"checkpoint", "images", "images_total"}
# Rows already on disk matter more to a reader of a live run than a disk sync for each of them.
_EVENTS_FLUSH_SECONDS = 1.0


def to_number(name: str, value: Any) -> int | float | None:
    """Return a scalar of Python, NumPy or JAX as a JSON number.

    NaN and infinities, which JSON cannot write, become None.

    Raises:
        TypeError: naming the metric, if `value` is not one real number.
    """
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind in "USOcMm":
        raise TypeError(
            f"metric {name!r} is not one real number: {type(value).__name__} of shape "
            f"{array.shape}, dtype {array.dtype}; reduce it before it is written"
        )
    if array.dtype.kind in "iub":
        return int(array.reshape(()))
    number = float(array.astype(np.float64).reshape(()))
    return number if math.isfinite(number) else None


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the rows of a `metrics.jsonl`, given the file or its workdir, in order.

    An incomplete last line, which a killed run leaves, is ignored.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: if a line other than the last is not a JSON object with a step and a split.
    """
    path = Path(path)
    if path.is_dir():
        path = path / METRICS_FILE
    *lines, torn = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "split": str(row["split"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a row of metrics ({error}): {line[:80]!r}; "
                "remove the line, or use another workdir"
            ) from error
    if torn:
        log.info("%s: the last line is incomplete and is ignored", path)
    return rows


class MetricWriter:
    """Writer of a run's `metrics.jsonl` and TensorBoard events.

    Every row is `{"step", "split", "time", name: value, ...}`, `time` in seconds since 1970. It is
    written at once, so a killed run leaves at most one incomplete line, the last one.

    Args:
        workdir: the run's folder; made if it does not exist.
        is_main: False in all processes but the first, where every call does nothing.
        resume_step: step of the checkpoint from which the run resumes; rows of later steps, which
            it will write again, are dropped. None: a run from scratch; rows of an earlier attempt
            are moved to `metrics.previous.jsonl`.
        append: add rows to `eval.jsonl` instead, without events, for an evaluation of a run that
            may be training and owns `metrics.jsonl`; `resume_step` is not used.

    Raises:
        OSError: if a file cannot be written; the message says which, and what to do.
        ValueError: if `metrics.jsonl` holds lines that no run wrote.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        is_main: bool = True,
        resume_step: int | None = None,
        append: bool = False,
    ):
        self._file: io.FileIO | None = None
        self._events: _EventFile | None = None
        self._workdir = Path(workdir)
        self._path = self._workdir / (EVALUATIONS_FILE if append else METRICS_FILE)
        if not is_main:
            return
        with explained(self._path):
            self._workdir.mkdir(parents=True, exist_ok=True)
            if not append:
                self._prepare_rows(resume_step)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
            if not append:
                # TensorBoard hides events of earlier files from the purge step on.
                purge = 0 if resume_step is None else resume_step + 1
                self._events = _EventFile(self._workdir, purge)

    def _prepare_rows(self, resume_step: int | None) -> None:
        if not self._path.exists():
            return
        if resume_step is None:
            if self._path.stat().st_size:
                self._path.replace(self._workdir / "metrics.previous.jsonl")
            return
        # A test row belongs to the end of a run, and this run continues.
        kept = [
            row
            for row in read_metrics(self._path)
            if row["step"] <= resume_step and not row["split"].startswith("test")
        ]
        write_atomically(self._path, "".join(_line(row) for row in kept).encode())

    def write(
        self,
        step: int,
        split: str,
        values: Mapping[str, Any],
        *,
        final: bool = False,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Add one row.

        Args:
            step: number of training steps done.
            split: `train`, `validation`, `test`, one of them with a suffix (`test_flip`), or
                `epoch` (what the sampler draws of each class).
            values: metric name -> scalar, as `to_number` takes it.
            final: marks the last row of a finished run.
            about: field -> text that says what was measured.

        Raises:
            ValueError: if a metric has the name of another field of the row.
            TypeError: if a value is not one real number.
            OSError: if the row cannot be written, for instance because the disk is full.
        """
        about = about or {}
        if clash := (_RESERVED | about.keys()).intersection(values):
            raise ValueError(f"metric names {sorted(clash)} are taken by the row's own fields")
        if self._file is None:
            return
        numbers = {name: to_number(name, value) for name, value in values.items()}
        row = {"step": int(step), "split": split, "time": round(time.time(), 3), **about, **numbers}
        if final:
            row["final"] = True
        with explained(self._path):
            _append(self._file, _line(row).encode())
            if self._events is not None:
                self._events.write(int(step), split, numbers)
                if final:
                    self._events.flush()

    def close(self) -> None:
        """Flush and close both files; later calls of `write` do nothing."""
        if self._file is None:
            return
        file, self._file = self._file, None
        file.close()
        if self._events is not None:
            with explained(self._workdir):
                self._events.close()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _EventFile:
    """A TensorBoard event file, written in the calling thread.

    tensorboardX's `SummaryWriter` hands events to a thread through a bounded queue: if the disk is
    full, the thread ends and training hangs. Here its lower layer is used, which raises errors.
    """

    def __init__(self, workdir: Path, purge_step: int):
        # Imported here: protobuf takes seconds that only the main process must spend.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        # The name holds whole seconds only; two starts within one must not share a file.
        suffix = f".{os.getpid()}.{time.time_ns() % 10**9:09d}"
        self._writer = EventsWriter(str(workdir / "events"), filename_suffix=suffix)
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))
        self._writer.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, split: str, numbers: Mapping[str, int | float | None]) -> None:
        for name, number in numbers.items():
            if number is not None:
                summary = self._scalar(f"{split}/{name}", number)
                event = self._event(wall_time=time.time(), step=step, summary=summary)
                self._writer.write_event(event)
        if time.monotonic() - self._flushed > _EVENTS_FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def _append(file: io.FileIO, line: bytes) -> None:
    end = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        # Half a line in the middle of the file would spoil the next one.
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), end)
        raise


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
