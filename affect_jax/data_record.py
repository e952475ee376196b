"""The record of the data that a run began with, compared when the run is resumed.

`data.json` holds classes, label fields and, for each split, counts and a digest of every record;
`data.DIGEST.npz` holds the records' names and labels, so that the first difference can be named.
`data_pipelines.sources.fingerprint` says what is compared.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax.errors import UserError
from affect_jax.runtime import parallel, write_atomically
from data_pipelines.defaults import DataConfig
from data_pipelines.schema import DataError, Source, canonical_name
from data_pipelines.sources import differences, fingerprint
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.differences import Difference
from data_pipelines.sources.fingerprint import Fingerprint, Records
from data_pipelines.sources.manifest_file import common_root

log = logging.getLogger(__name__)

_FORMAT = 1
_SAME, _NEW, _ACCEPTED = range(3)
_ACCEPT = "accept the current data by --config.data.accept_changed=True"


class DataChanged(UserError):
    """The data are not the data that the run began with."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """The current data of a run, compared with its record.

    Attributes:
      workdir: of the run.
      now: the current data.
      is_new: the run has no record, or has not begun.
      is_accepted: the data have changed since the run began, and the user has accepted this; or
        they are only in another order.
    """

    workdir: pathlib.Path
    now: Fingerprint
    is_new: bool
    is_accepted: bool

    def begin(self) -> None:
        """Record the data of a run that has no record; on every process."""
        if self.is_new:
            parallel.from_main(lambda: write(self.workdir, self.now))

    def go_on(self) -> None:
        """Record accepted data, once the run is really trained on them; on every process."""
        if self.is_accepted:
            parallel.from_main(lambda: _replace(self.workdir, self.now))


def compare(
    workdir: pathlib.Path, sources: Mapping[str, Source], *, accept: bool = False
) -> Compared:
    """Compare the data of a run with its record; on every process, writing nothing.

    A run without a record takes the current data as its own.

    Args:
      workdir: of the run.
      sources: train, validation, test.
      accept: resume with changed data (`config.data.accept_changed`), with a warning. Data whose
        classes do not fit the run's head are still refused.

    Raises:
      DataChanged: the data have changed, or differ between the processes.
    """
    now = fingerprint.of_sources(sources, sample=parallel.is_main_process())
    _check_processes(now)
    state = parallel.from_main(lambda: _compare(workdir, now, accept))
    return Compared(workdir, now, is_new=state == _NEW, is_accepted=state == _ACCEPTED)


def _compare(workdir: pathlib.Path, now: Fingerprint, accept: bool) -> int:
    then, begun = read(workdir), config_lib.holds_results(workdir)
    if then is None and begun:
        log.info("%s has no record of its data; the current data are recorded instead", workdir)
    if then is None or not begun:
        return _NEW
    found = differences.first_difference(then, now)
    if found is None:
        return _SAME
    if found.only_order:
        log.warning(
            "the data of %s are the same as when it began, but %s; training goes on with the new "
            "order",
            workdir,
            found.text,
        )
        return _ACCEPTED
    _refuse_unless_accepted(workdir, found, then, now, accept)
    return _ACCEPTED


def _refuse_unless_accepted(
    workdir: pathlib.Path, found: Difference, then: Fingerprint, now: Fingerprint, accept: bool
) -> None:
    """Raise DataChanged, with a remedy, unless the user accepts the changed data."""
    remedy = _remedy(then.class_names, now.class_names)
    if found.only_persons:
        about = f"{workdir} began under another rule for persons. First difference, {found.text}"
        ways = "Use a new --workdir"
    else:
        about = f"the data of {workdir} have changed since it began. First difference, {found.text}"
        ways = "Restore the data, use a new --workdir"
    if not accept or remedy != _ACCEPT:
        raise DataChanged(f"{about}. {ways}, or {remedy}")
    log.warning("config.data.accept_changed: %s", about)


def _remedy(then: Sequence[str], now: Sequence[str]) -> str:
    """Return how a run on classes `then` can be resumed with data of classes `now`.

    A trained head cannot lose or gain classes. If its classes change places, it would be trained
    and tested on permuted labels.
    """
    if len(then) != len(now):
        return f"give the data the {len(then)} classes of the run: its head cannot change"
    places = {canonical_name(name): i for i, name in enumerate(then)}
    for i, name in enumerate(now):
        place = places.get(canonical_name(name), i)
        if place != i:
            return (
                f"give the classes names that keep their order: {name!r} was class {place} and "
                f"would be class {i}, which its head cannot follow"
            )
    return _ACCEPT


def check_own(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, sources: Mapping[str, Source]
) -> None:
    """Compare the data that a finished run is used on with its record; write nothing.

    Data from another place, a changed order, and a run without a record are accepted.

    Args:
      workdir: of the run.
      config: names the data.
      sources: made of it: train, validation, test.

    Raises:
      DataChanged: the data of the run itself have changed and are not accepted.
      DataError: the run's data can no longer be read in the same way.
    """
    then = read(workdir)
    recorded = config_lib.read_workdir_config(workdir)
    if then is None or data_lib.place_of(config.data) != data_lib.place_of(recorded.data):
        return
    recorded.data.max_bad_fraction = config.data.max_bad_fraction
    # Another view of the data, as by data.clean_eval, does not mean that they have changed.
    if not data_lib.same_records(config.data, recorded.data):
        sources = data_lib.make_sources(recorded)
    now = fingerprint.of_sources(sources)
    found = differences.first_difference(then, now)
    if found is not None and not found.only_order:
        _refuse_unless_accepted(workdir, found, then, now, config.data.accept_changed)


def is_reordered(workdir: pathlib.Path, split: str, source: Source) -> bool:
    """Return whether records of a split have other positions than when a checkpoint was trained.

    Also if the run was resumed with other positions: earlier checkpoints hold the earlier ones.
    """
    then = read(workdir)
    if then is None:
        return False
    if split in _moved_before(workdir):
        return True
    now = fingerprint.of_sources({"train": source}, sample=False)
    return differences.has_moved(then.splits[split], now.splits["train"])


def _moved_before(workdir: pathlib.Path) -> list[str]:
    return (_read_json(workdir) or {}).get("moved", [])


def _replace(workdir: pathlib.Path, now: Fingerprint) -> None:
    """Replace the record of a resumed run; keep in mind which splits have other positions."""
    then = read(workdir)
    moved = set(_moved_before(workdir))
    if then is not None:
        moved |= {
            split
            for split, old in then.splits.items()
            if differences.has_moved(old, now.splits[split])
        }
    write(workdir, now, sorted(moved))


def warn_of_trained(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, source: Source
) -> None:
    """Warn where other data hold images that a run was trained on, or its checkpoint chosen by.

    Images are the same if they are the same file, by any path.

    Args:
      workdir: of the run.
      config: names the data that it is evaluated on.
      source: made of it.
    """
    then, own = read(workdir), config_lib.read_workdir_config(workdir).data
    if then is None or data_lib.place_of(config.data) == data_lib.place_of(own):
        return
    files = _files(config.data, source.record_columns().get("path", ()))
    for split in ("train", "validation"):
        column = then.splits[split].columns.get("path")
        names = () if column is None else fingerprint.decode(np.asarray(column))
        shared = files & _files(own, names)
        if shared:
            log.warning(
                "%d of these %d images, such as %s, are in the %s split of the run in %s: its "
                "results on them do not show how it reads new ones",
                len(shared),
                len(source),
                min(shared),
                split,
                workdir,
            )


def _files(data: ml_collections.ConfigDict, names: Iterable[str]) -> frozenset[str]:
    """Return the real paths of images, as they are named in the data; none if not in files."""
    if data.source not in ("manifest", "folder"):
        return frozenset()
    place = data_lib.place_of(data)[data.source]
    root = common_root(place) if data.source == "manifest" else pathlib.Path(place)
    return frozenset(os.path.realpath(root / name) for name in names if name)


def _check_processes(now: Fingerprint) -> None:
    """Refuse a job whose processes see different records."""
    mine = [[split, r.digest, r.has] for split, r in now.splits.items()]
    plain = json.dumps([now.class_names, mine]).encode()
    digest = np.frombuffer(hashlib.sha256(plain).digest(), np.uint8)
    rows = parallel.all_gather_hosts(digest.astype(np.float64))
    others = np.flatnonzero((rows != rows[0]).any(1))
    if len(others):
        raise DataChanged(
            f"process {others[0]} of the job sees other data than process 0; give all processes "
            "the same files"
        )


def changed(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, cache: DataCache | None = None
) -> Difference | None:
    """Return how the data of a config differ from those recorded in `workdir`.

    Args:
      workdir: of a run.
      config: names the data.
      cache: the data of a config are read once with it.

    Returns:
      None if they are the same, the workdir has no record, or the data cannot be read now.
    """
    then = read(workdir)
    if then is None:
        return None
    cache = cache or DataCache()
    try:
        key = ("fingerprint", DataConfig.of(config.data).source_key())
        now = cache.once(key, lambda: fingerprint.of_sources(data_lib.make_sources(config, cache)))
    except DataError as error:
        log.debug("%s cannot be compared: %s", workdir, error)
        return None
    return differences.first_difference(then, now)


def digest(workdir: pathlib.Path) -> str | None:
    """Return the digest of the recorded data; None without a record."""
    content = _read_json(workdir)
    return None if content is None else content["digest"]


def write(workdir: pathlib.Path, now: Fingerprint, moved: Sequence[str] = ()) -> None:
    """Replace the record of a workdir atomically.

    Args:
      workdir: of a run.
      now: its data.
      moved: splits whose records had other positions earlier in the run.
    """
    arrays: dict[str, Any] = {
        f"{split}/{name}": column
        for split, records in now.splits.items()
        for name, column in records.columns.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    columns = f"data.{now.digest[:12]}.npz"
    content = {
        "format": _FORMAT,
        "recorded": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "class_names": now.class_names,
        "attribute_names": now.attribute_names,
        "digest": now.digest,
        "columns": columns,
        "moved": list(moved),
        "splits": {
            split: {f.name: getattr(records, f.name) for f in _STORED}
            for split, records in now.splits.items()
        },
    }
    # Write the columns first, so that data.json does not name a missing file.
    write_atomically(workdir / columns, buffer.getvalue())
    write_atomically(
        workdir / config_lib.DATA_FILE, (json.dumps(content, indent=1) + "\n").encode()
    )
    for old in workdir.glob("data.*.npz"):
        if old.name != columns:
            old.unlink(missing_ok=True)


_STORED = tuple(f for f in dataclasses.fields(Records) if f.name != "columns")


def read(workdir: pathlib.Path) -> Fingerprint | None:
    """Return the recorded fingerprint of a workdir, None without a record.

    All columns of a split are left out if one of them is lost or damaged.

    Raises:
      UserError: `data.json` is damaged.
    """
    content = _read_json(workdir)
    if content is None:
        return None
    columns = _read_columns(workdir / content["columns"])
    splits = {}
    for split, values in content["splits"].items():
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        found = columns.get(split, {})
        whole = fingerprint.digest(found) == values["digest"]
        splits[split] = Records(columns=found if whole else {}, **values)
    return Fingerprint(tuple(content["class_names"]), tuple(content["attribute_names"]), splits)


def _read_columns(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the columns of each split that can be read."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    # A damaged file fails in many ways: in the archive, in zlib, in the parser of array headers.
    with contextlib.suppress(Exception), np.load(path) as stored:
        for key in stored.files:
            split, _, name = key.partition("/")
            with contextlib.suppress(Exception):
                columns.setdefault(split, {})[name] = stored[key]
    return columns


def _read_json(workdir: pathlib.Path) -> dict[str, Any] | None:
    path = workdir / config_lib.DATA_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
        if version == _FORMAT and not (content["digest"] and content["splits"]):
            raise ValueError("it is empty")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it from a copy, or remove it if the data "
            "have not changed since the run began"
        ) from None
    if version != _FORMAT:
        raise UserError(
            f"{path} has format {version}, this version of affect_jax reads {_FORMAT}; use the "
            "version that the run began with"
        )
    return content
