"""Turn a user's copy of a data set into ArrayRecord files that training reads.

    python -m data_pipelines.prepare --dataset list
    python -m data_pipelines.prepare --dataset raf_db --manual_dir ~/RAF-DB --data_dir ~/prepared
    python -m data_pipelines.prepare --dataset ck_plus/seven_peak --manual_dir ... --data_dir ...
    python -m data_pipelines.prepare --dataset manifest --manual_dir my.csv --data_dir ... --detect

A data set in `--data_dir` is complete or absent: it is written to a temporary folder that is
renamed at the end. Repeat a run that was stopped or killed: it removes what the last one left and
starts again. `rejected.csv` next to the records lists the images that cannot be used and why. It
also lists, with an empty split, rows and images that belong to no split, so that what was used
and what was left out add up to what was there.
"""

import argparse
import contextlib
import io
import json
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from data_pipelines import datasets, disk, locks
from data_pipelines.face_finder import FaceFinder, load_face_finder
from data_pipelines.landmarker import Landmarker, load_landmarker
from data_pipelines.schema import DataError
from data_pipelines.sources.manifest_file import split_paths
from data_pipelines.sources.prepared import META_FILE

if TYPE_CHECKING:
    from data_pipelines.datasets.base import FaceBuilder


class Interrupted(Exception):
    """The run was asked to stop; it leaves nothing behind."""


def prepare(
    dataset: str,
    manual_dir: str | Path,
    data_dir: str | Path,
    *,
    landmarks: Landmarker | None = None,
    finder: FaceFinder | None = None,
    workers: int = 4,
    check: str = "full",
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Prepare one data set, unless that was done before; return its folder.

    Args:
      dataset: `name` or `name/config`.
      manual_dir: the user's files; for `manifest` also the file itself, or several files with
        commas between them.
      landmarks: finds landmarks that replace those of the data set.
      finder: finds the faces of images without a box; those without a face are rejected.
      workers: threads that read and check images.
      check: "full" decodes every image; "header" only those that must be converted.
      progress: called as `progress(split, done, total)`.

    Raises:
      DataError: unknown data set or config, the wrong folder, or another run is at work.
    """
    builder = make_builder(dataset, manual_dir, data_dir)
    builder.workers, builder.check, builder.landmarker = workers, check, landmarks
    builder.finder = finder
    builder.progress = progress
    run(builder)
    return Path(builder.data_dir)


def run(builder: "FaceBuilder") -> bool:
    """Prepare what a builder describes; return False if that was done before.

    Raises:
      DataError: the wrong folder, another run is at work, or own data that were prepared before
        have changed.
      disk.DiskFullError: the disk has not enough space for the records.
    """
    target = Path(builder.data_dir)
    if (target / META_FILE).is_file():
        recorded = json.loads((target / META_FILE).read_text(encoding="utf-8")).get("identity")
        if recorded and recorded != builder.identity():
            raise DataError(
                f"{target} was prepared from other rows than {builder.manual_dir} has now; remove "
                f"it, or give the new data another name: --dataset {builder.name}/NAME"
            )
        return False
    # Looking for the layout costs nothing and fails before anything is written.
    builder.locate()
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk.explained(target), _only_run(target.parent / ".lock"):
        # A killed run leaves a temporary folder, or a target without its side files.
        for path in target.parent.glob(f"incomplete.*_{target.name}"):
            shutil.rmtree(path)
        if target.exists():
            shutil.rmtree(target)
        with tempfile.TemporaryDirectory() as downloads, _quiet_tfds():
            builder.download_and_prepare(download_dir=downloads)
    return True


def make_builder(dataset: str, manual_dir: str | Path, data_dir: str | Path) -> "FaceBuilder":
    """Make the builder of `name` or `name/config`.

    Raises:
      DataError: unknown name or config, or a missing folder.
    """
    manual_dir, data_dir = Path(manual_dir).expanduser(), Path(data_dir).expanduser()
    name, _, config = dataset.partition("/")
    cls = datasets.builder_class(name)
    for place in split_paths(manual_dir) if name == "manifest" else [manual_dir]:
        if not place.exists():
            raise DataError(f"--manual_dir: there is no folder {place}")
    known = [c.name for c in cls.BUILDER_CONFIGS]
    if config and known and config not in known:
        raise DataError(f"{name} has no config {config!r}; known: {', '.join(known)}")
    if config and not known and name != "manifest":
        raise DataError(f"{name} has no configs; use --dataset {name}")
    config = config or (known or [None])[0]
    with _quiet_tfds():
        return cls(manual_dir=manual_dir, data_dir=str(data_dir), config=config)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Suppress TFDS's remarks on downloads, which do not concern users' own files."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _only_run(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, even if that is killed."""
    with open(lock, "w") as f:
        if not locks.take(f):
            raise DataError(f"another run is preparing this data set; wait until it ends ({lock})")
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = _parser().parse_args(argv)
    # After the arguments, as it imports TensorFlow Datasets.
    from data_pipelines.datasets import description

    if args.dataset == "list":
        print("\n\n".join(description.describe(name) for name in datasets.names()))
        return 0
    try:
        if not args.manual_dir or not args.data_dir:
            raise DataError("give --manual_dir (your files) and --data_dir (where to write)")
        with _stop_on_sigterm(), _Bar() as bar:
            builder = make_builder(args.dataset, args.manual_dir, args.data_dir)
            builder.workers, builder.check, builder.progress = args.workers, args.check, bar
            if args.landmarks:
                builder.landmarker = load_landmarker(args.landmarks)
            if args.detect:
                builder.finder = load_face_finder()
            existed = not run(builder)
    except (DataError, OSError) as e:  # such as a full disk, or a folder that may not be written
        print(f"error: {e}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print("stopped; nothing was left behind, run the command again", file=sys.stderr)
        return 130
    description.print_summary(builder, existed)
    if existed and args.landmarks:
        print(
            "warning: --landmarks had no effect: the data set keeps its first landmarks",
            file=sys.stderr,
        )
    if existed and args.detect:
        print("warning: --detect had no effect: the data set keeps its boxes", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dataset", required=True, help="name, name/config, or list")
    parser.add_argument("--manual_dir", help="your files; manifests may be several: a.csv,b.csv")
    parser.add_argument("--data_dir", help="where the prepared data set goes")
    parser.add_argument("--landmarks", help="model folder: recompute the 68 landmarks with it")
    parser.add_argument(
        "--detect", action="store_true", help="find the face of images without a box"
    )
    parser.add_argument("--workers", type=int, default=4, help="threads that read images")
    parser.add_argument(
        "--check", choices=("full", "header"), default="full", help="full: decode every image"
    )
    return parser


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind like Ctrl-C, so that the temporary folder is removed."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Bar:
    """A progress bar a split on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._split = ""

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, split: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if split != self._split:
            self.__exit__()
            self._bar = tqdm(desc=split, total=max(total, 0) or None, unit=" images", leave=True)
            self._split = split
        self._bar.update(done - self._bar.n)


if __name__ == "__main__":
    sys.exit(main())
