"""Tables written row by row, so that a crash loses nothing and the same command resumes.

While a table grows it is `NAME.partial`: the lines of a CSV or JSONL file. `NAME.run.json` says
which command writes it and how far it is; it is replaced, and the lines are forced to the disk, at
every `save`. Lines after the last `save` are cut off when the command resumes. At the end the
partial file is renamed, or converted to Parquet, and the record stays and says how the table was
made.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, TextIO

import numpy as np

from affect_jax.errors import UserError
from affect_jax.inference.face_table import FaceTable, Row, cell
from affect_jax.runtime import write_atomically
from data_pipelines import disk, locks

FORMATS = ("csv", "parquet", "jsonl")
ENDINGS = _PARTIAL, _RECORD = (".partial", ".run.json")
_GROUP = 50_000  # rows of a Parquet row group


def format_of(path: str | os.PathLike) -> str:
    """Return "csv", "parquet" or "jsonl" by the ending of a file's name; "" for others."""
    suffix = pathlib.Path(path).suffix.lower().lstrip(".")
    return suffix if suffix in FORMATS else ""


class TableFile:
    """A table on disk and the record beside it.

    Attributes:
      path: of the finished table.
      position: what `save` was last given, by this or an earlier process; None: nothing yet.
      finished: whether the table is complete.

    Args:
      path: ends in `.csv`, `.parquet` or `.jsonl`.
      table: gives the columns.
      command: what determines the rows, JSON-able: a table can be resumed by the same only.
      overwrite: begin again, and replace what is there.

    Raises:
      UserError: another command made it or writes it, or Parquet files cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        table: FaceTable,
        command: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ):
        self.path = pathlib.Path(path)
        self._table, self._command = table, dict(command)
        self._format = format_of(path)
        if not self._format:
            raise UserError(f"--output {path}: the name must end in .csv, .parquet or .jsonl")
        if self._format == "parquet":
            _pyarrow()
        self._partial = self.path.with_name(self.path.name + _PARTIAL)
        self._record = self.path.with_name(self.path.name + _RECORD)
        self.position: Any = None
        self.finished = False
        self._file: IO[bytes] | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self._locked()
        try:
            present = os.fstat(file.fileno()).st_size
            size = 0 if overwrite else self._size_of_earlier(present)
            if not self.finished:
                self._begin(file, size)
        finally:
            if self._file is None:
                if not present:
                    self._partial.unlink()
                file.close()

    def _locked(self) -> IO[bytes]:
        """Return the partial file, opened and locked."""
        while True:
            file = open(self._partial, "ab")  # noqa: SIM115 (closed by `close`)
            if not locks.take(file):
                file.close()
                raise UserError(f"{self.path} is being written by another process")
            # Another process may have finished the table in between: then this is the table.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._partial), os.fstat(file.fileno())):
                    return file
            file.close()

    def _begin(self, file: IO[bytes], size: int) -> None:
        """Cut the partial file to `size` bytes, and go on from there."""
        if not size:  # a crash after cutting finds a record of nothing
            self._note(0)
        file.truncate(size)
        file.seek(0, os.SEEK_END)
        self._file = file
        if self._format == "csv" and not size:
            file.write(_csv_line(self._table.columns))
        self.save(self.position)

    def _size_of_earlier(self, present: int) -> int:
        """Return how many of the `present` bytes to keep; note what the record says."""
        if not self._record.exists():
            if self.path.exists():
                raise UserError(
                    f"{self.path} exists, and no {self._record.name} says which command made it; "
                    "name another --output, or give --overwrite"
                )
            return 0
        record = self._read_record()
        if differences := _differences(record["command"], self._command):
            raise UserError(
                f"{self.path} belongs to another command, which differs in {differences}; name "
                "another --output, give the same options, or --overwrite"
            )
        self.position = record["position"]
        # A crash between renaming the table and noting so.
        renamed = self.path.exists() and record["bytes"] > 0 and not present
        self.finished = renamed or (record["finished"] and self.path.exists())
        if not self.finished and present < record["bytes"]:
            raise UserError(
                f"{self._partial} is shorter than {self._record.name} says; give --overwrite"
            )
        return record["bytes"]

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record.read_text())
            return {key: record[key] for key in ("command", "position", "bytes", "finished")}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{self._record} cannot be read ({error!r}); remove it, or give --overwrite"
            ) from error

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, each with all columns of the table."""
        assert self._file is not None
        columns = self._table.columns
        for row in rows:
            values = [row[name] for name in columns]
            if self._format == "csv":
                self._file.write(_csv_line(map(cell, values)))
            else:
                plain = {n: _json(v) for n, v in zip(columns, values, strict=True)}
                self._file.write((json.dumps(plain, ensure_ascii=False) + "\n").encode())

    def save(self, position: Any) -> None:
        """Force the rows to the disk and note `position`, JSON-able, from which to go on."""
        assert self._file is not None
        with disk.explained(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self.position = position
        self._note(os.fstat(self._file.fileno()).st_size)

    def _note(self, size: int) -> None:
        record = {
            "command": self._command,
            "finished": self.finished,
            "bytes": size,
            "position": self.position,
        }
        write_atomically(self._record, (json.dumps(record, indent=1) + "\n").encode())

    def finish(self, position: Any) -> None:
        """Save, and give the complete table its name."""
        self.save(position)
        assert self._file is not None
        size = os.fstat(self._file.fileno()).st_size
        with disk.explained(self.path):
            if self._format == "parquet":
                temporary = self.path.with_name(f".{self.path.name}.tmp")
                _to_parquet(self._partial, temporary, self._table)
                temporary.replace(self.path)
                self._partial.unlink()
            else:
                self._partial.replace(self.path)
        self.finished = True
        self._note(size)
        self.close()

    def close(self) -> None:
        """Close the file; rows since the last `save` are cut off by the next process."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _differences(old: Any, new: Mapping[str, Any]) -> str:
    """Return the names of what differs between two commands, with both values."""
    old = old if isinstance(old, dict) else {}
    new = json.loads(json.dumps(new))
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return "; ".join(f"{key} ({old.get(key)!r}, now {new.get(key)!r})" for key in keys)


def _csv_line(cells: Iterable[str]) -> bytes:
    return (",".join(map(_quoted, cells)) + "\n").encode()


def _quoted(text: str) -> str:
    if any(sign in text for sign in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _json(value: Any) -> Any:
    """Return a value as JSON has it: a missing number is null."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    return None if not np.isfinite(value) else float(cell(value))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            'Parquet files need pyarrow: pip install -e ".[parquet]", or write .csv or .jsonl'
        ) from error
    return pyarrow


def _to_parquet(lines: pathlib.Path, output: pathlib.Path, table: FaceTable) -> None:
    """Convert JSON lines, by groups of rows."""
    arrow = _pyarrow()
    kinds = {
        "text": arrow.string(),
        "id": arrow.int64(),
        "time": arrow.float64(),
        "number": arrow.float32(),
    }
    schema = arrow.schema([(name, kinds[table.kind(name)]) for name in table.columns])
    with arrow.parquet.ParquetWriter(output, schema) as writer:
        for group in _groups(lines):
            writer.write_table(arrow.Table.from_pylist(group, schema))


def _groups(lines: pathlib.Path) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    with open(lines, encoding="utf-8") as file:
        for line in file:
            group.append(json.loads(line))
            if len(group) == _GROUP:
                yield group
                group = []
    if group:
        yield group


class Printer:
    """Rows on a stream: CSV, or short lines for people where it is a terminal."""

    position: Any = None
    finished = False

    def __init__(self, stream: TextIO, table: FaceTable):
        self._stream, self._table = stream, table
        self._short = stream.isatty()
        if not self._short:
            self._print(_csv_line(table.columns).decode())

    def write(self, rows: Sequence[Row]) -> None:
        """Show rows."""
        for row in rows:
            if self._short:
                self._print(short_line(row) + "\n")
            else:
                self._print(_csv_line(cell(row[n]) for n in self._table.columns).decode())

    def save(self, position: Any) -> None:
        """Let the reader have what was written."""
        self._stream.flush()

    finish = save

    def close(self) -> None:
        """Do nothing: the stream is the caller's."""

    def _print(self, text: str) -> None:
        self._stream.write(text)


def short_line(row: Row) -> str:
    """Return a row for people, such as `photo.jpg face 0: happy 0.93, valence +0.71 ...`."""
    where = row["file"]
    if np.isfinite(row["time"]):
        where += f" {row['time']:.2f} s"
    if row["face"] < 0:
        return f"{where}: {row['error']}"
    where += f" face {row['face']}" if row["track"] < 0 else f" track {row['track']}"
    parts = [f"{row['expression']} {row['confidence']:.2f}"] if row["expression"] else []
    parts += [
        f"{name} {row[name]:+.2f}" for name in ("valence", "arousal") if np.isfinite(row[name])
    ]
    parts += [row["error"]] if row["error"] else []
    return f"{where}: {', '.join(parts)}"
