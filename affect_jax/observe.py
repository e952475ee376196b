"""What a run writes and shows while it runs: metrics, TensorBoard events, progress bar, log lines.

Nothing here knows about devices or models; the training loop hands over numbers. In a run of
several processes only the main one (`is_main`) writes or shows anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

METRICS_FILE = "metrics.jsonl"
_RESERVED = frozenset({"step", "split", "time", "final"})
# Rows already on disk matter more to a reader of a live run than a disk sync for each of them.
_EVENTS_FLUSH_SECONDS = 1.0


def to_number(name: str, value: Any) -> int | float | None:
    """Turns a Python, NumPy or JAX scalar into a JSON number.

    Args:
        name: the metric's name, for the message.
        value: a scalar, or an array with one element.

    Returns:
        An int or float; None for NaN and infinities, which JSON has no way to write.

    Raises:
        TypeError: if `value` is not one real number.
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
    """Reads the rows of a `metrics.jsonl`; a torn last line (a killed run) is left out.

    Args:
        path: the file, or the workdir that holds it.

    Returns:
        The rows in the order in which they were written; `null` values are None.

    Raises:
        FileNotFoundError: if there is no such file.
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
        logging.getLogger(__name__).info("%s: a torn last line is left out", path)
    return rows


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard events into a workdir.

    Every row is `{"step", "split", "time", name: value, ...}`, `time` in seconds since 1970; it is
    written in one piece, so that a killed run leaves at most one torn line, the last one.

    Args:
        workdir: the run's folder; made if it does not exist.
        is_main: False in all processes but the first, where every call does nothing.
        resume_step: the step of the checkpoint that the run goes on from: rows of later steps,
            which the run will write again, are dropped. None: a run from scratch; rows of an
            earlier attempt are set aside as `metrics.previous.jsonl`.
        append: keep whatever is there (evaluation of a finished run); `resume_step` is not used.

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
        self._file = self._events = None
        self._workdir = Path(workdir)
        if not is_main:
            return
        self._path = self._workdir / METRICS_FILE
        with _explained(self._path):
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._prepare_rows(None if append else resume_step, keep_all=append)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
            # TensorBoard hides what lies at or beyond the purge step in files of earlier attempts.
            purge = None if append else 0 if resume_step is None else resume_step + 1
            self._events = _EventFile(self._workdir, purge)

    def _prepare_rows(self, resume_step: int | None, *, keep_all: bool) -> None:
        if not self._path.exists():
            return
        if resume_step is None and not keep_all:
            if self._path.stat().st_size:
                self._path.replace(self._workdir / "metrics.previous.jsonl")
            return
        rows = read_metrics(self._path)
        kept = rows if keep_all else [row for row in rows if row["step"] <= resume_step]
        write_atomically(self._path, "".join(_line(row) for row in kept).encode())

    def write(
        self, step: int, split: str, values: Mapping[str, Any], *, final: bool = False
    ) -> None:
        """Adds one row.

        Args:
            step: number of training steps done.
            split: `train`, `validation`, `test`, or one of them with a suffix (`test_flip`).
            values: metric name -> Python, NumPy or JAX scalar. NaN and infinities become null.
            final: marks the last row of a finished run.

        Raises:
            ValueError: if a metric's name is one of the row's own fields.
            TypeError: if a value is not one real number.
            OSError: if the row cannot be written, for instance because the disk is full.
        """
        if clash := _RESERVED.intersection(values):
            raise ValueError(f"metric names {sorted(clash)} are taken by the row's own fields")
        if self._file is None:
            return
        numbers = {name: to_number(name, value) for name, value in values.items()}
        row = {"step": int(step), "split": split, "time": round(time.time(), 3), **numbers}
        if final:
            row["final"] = True
        with _explained(self._path):
            self._append(_line(row).encode())
            self._events.write(int(step), split, numbers)
            if final:
                self._events.flush()

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # Half a line in the middle of the file would spoil it for whoever writes the next.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise

    def close(self) -> None:
        """Flushes and closes both files; later calls of `write` do nothing."""
        if self._file is None:
            return
        file, self._file = self._file, None
        file.close()
        with _explained(self._workdir):
            self._events.close()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _EventFile:
    """A TensorBoard event file, written in the calling thread.

    tensorboardX's `SummaryWriter` hands events to a thread through a bounded queue: when the disk
    is full the thread dies and training hangs. Its lower layer is used here, and errors come out.
    """

    def __init__(self, workdir: Path, purge_step: int | None):
        # Imported late: protobuf and all take seconds that only the main process need spend.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        # The name holds whole seconds only; two starts within one must not share a file.
        suffix = f".{os.getpid()}.{time.time_ns() % 10**9:09d}"
        self._writer = EventsWriter(str(workdir / "events"), filename_suffix=suffix)
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(
                Event(wall_time=time.time(), step=purge_step, session_log=start)
            )
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


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Adds to an operating system's error which file it was and what can be done about it."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again, "
            "it goes on from the last checkpoint",
            errno.EDQUOT: "your disk quota is used up; free some space and run the same command "
            "again, it goes on from the last checkpoint",
            errno.EACCES: "no permission to write there; choose another --workdir",
            errno.EROFS: "the file system is read-only; choose another --workdir",
        }.get(error.errno)
        if advice is None:
            raise
        raise OSError(error.errno, f"cannot write {path}: {advice}") from error


class Throughput:
    """Images per second and the share of time spent waiting for input, between two log lines.

    The first step, which holds the compilation, counts in neither. Steps are dispatched
    asynchronously: call `snapshot` after the step's loss has been fetched.

    Args:
        batch_size: the global batch size.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, batch_size: int, *, clock: Callable[[], float] = time.perf_counter):
        self._batch_size = batch_size
        self._clock = clock
        self._compiled = False
        self._restart()

    def _restart(self) -> None:
        self._start = self._clock()
        self._steps = 0
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wraps the call that fetches the next batch."""
        begin = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Wraps what is no part of training, such as an evaluation pass."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begin

    def step(self) -> None:
        """Counts one training step. After the first one the window starts afresh."""
        if self._compiled:
            self._steps += 1
        else:
            self._compiled = True
            self._restart()

    def snapshot(self) -> dict[str, float]:
        """Ends the window and starts the next.

        Returns:
            `images_per_second` (of the whole run, all devices) and `input_wait_share` in [0, 1];
            NaN both, if the window held no step but the first.
        """
        elapsed = self._clock() - self._start - self._paused
        steps, waited = self._steps, self._waited
        self._restart()
        if steps == 0 or elapsed <= 0:
            return {"images_per_second": math.nan, "input_wait_share": math.nan}
        return {
            "images_per_second": steps * self._batch_size / elapsed,
            "input_wait_share": min(waited / elapsed, 1.0),
        }


class Progress:
    """A progress bar on a terminal; a plain line every `interval` seconds anywhere else.

    Args:
        total_steps: the step at which the run ends.
        start_step: the step from which it goes on (0, or the checkpoint's).
        is_main: False in all processes but the first, which show nothing.
        stream: where to show it; stderr unless given.
        interval: seconds between plain lines.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        is_main: bool = True,
        *,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._step = total_steps, start_step
        self._is_main, self._interval, self._clock = is_main, interval, clock
        self._stream = sys.stderr if stream is None else stream
        self._loss = self._rate = None
        self._status = "compiling"
        self._first: tuple[int, float] | None = None
        self._last_line = clock()
        self._bar = None
        if is_main and self._stream.isatty():
            self._bar = _make_bar(total_steps, start_step, self._stream, self._status)

    def update(
        self, step: int, *, loss: float | None = None, images_per_second: float | None = None
    ) -> None:
        """Shows that `step` steps are done; values not given stay as last shown."""
        if not self._is_main:
            return
        self._step = step
        self._loss = _finite(loss, self._loss)
        self._rate = _finite(images_per_second, self._rate)
        self._status = "train"
        now = self._clock()
        if self._first is None:  # The time before it went into compilation, and would spoil the ETA
            self._first = (step, now)
        if self._bar is not None:
            self._bar.set_description_str(self._status, refresh=False)
            self._bar.set_postfix_str(self._details(now), refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_line >= self._interval or step >= self._total:
            self._last_line = now
            print(self._plain(now), file=self._stream, flush=True)

    def status(self, text: str) -> None:
        """Names what happens now when it is no training step, such as `validation`."""
        self._status = text
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=True)

    def log(self, message: str) -> None:
        """Prints a message above the bar."""
        if not self._is_main:
            return
        if self._bar is not None:
            self._bar.write(message, file=self._stream)
        else:
            print(message, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands and moves on to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def eta_seconds(self) -> float | None:
        """Seconds to the end at the mean pace since the first step; None when not yet known."""
        return None if self._first is None else self._eta(self._clock())

    def _eta(self, now: float) -> float | None:
        step, then = self._first
        if self._step <= step or now <= then:
            return None
        return (self._total - self._step) * (now - then) / (self._step - step)

    def _details(self, now: float) -> str:
        parts = []
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if self._rate is not None:
            parts.append(f"{self._rate:.{0 if self._rate >= 100 else 1}f} images/s")
        eta = self._eta(now)
        parts.append("ETA " + ("?" if eta is None else duration(eta)))
        return ", ".join(parts)

    def _plain(self, now: float) -> str:
        share = 100 * self._step // max(self._total, 1)
        return f"step {self._step}/{self._total} ({share}%), {self._details(now)}"


def _make_bar(total: int, initial: int, stream: TextIO, status: str) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        # tqdm's watchdog thread has no use here, and threads make forked input workers risky.
        monitor_interval = 0

    return Bar(
        total=total,
        initial=initial,
        desc=status,
        file=stream,
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {elapsed}{postfix}",
    )


def _finite(value: Any, otherwise: float | None) -> float | None:
    number = None if value is None else float(value)
    return otherwise if number is None or math.isnan(number) else number


def duration(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class _LogHandler(logging.Handler):
    """Log lines to stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if "tqdm" in sys.modules and sys.stderr.isatty():
                from tqdm import tqdm

                tqdm.write(message, file=sys.stderr)
            else:
                print(message, file=sys.stderr, flush=True)
        except Exception:  # A log line must never end a run
            self.handleError(record)


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def setup_logging(*, is_main: bool = True, level: int = logging.INFO) -> None:
    """One format for every log line (`14:03:59 text`), the libraries' chatter left out.

    Args:
        is_main: False in all processes but the first, which then log warnings only.
        level: for this project's own lines; libraries are held to warnings.
    """
    import absl.logging

    root = logging.getLogger()
    absl_handler = absl.logging.get_absl_handler()
    for handler in list(root.handlers):
        if isinstance(handler, _LogHandler) or handler is absl_handler:
            root.removeHandler(handler)
    handler = _LogHandler()
    handler.setFormatter(_LogFormatter())
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    # Only while its own handler is not on the root does absl's verbosity leave the root alone.
    absl.logging.set_verbosity(absl.logging.WARNING)
    for name in ("jax", "jax._src", "orbax", "grain", "etils", "flax", "matplotlib", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("affect_jax", "data_pipelines"):
        logging.getLogger(name).setLevel(level if is_main else logging.WARNING)
