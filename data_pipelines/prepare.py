"""Turns a user's copy of a data set into ArrayRecord files that training reads.

    python -m data_pipelines.prepare --dataset list
    python -m data_pipelines.prepare --dataset raf_db --manual_dir ~/RAF-DB --data_dir ~/prepared
    python -m data_pipelines.prepare --dataset ck_plus/seven_peak --manual_dir ... --data_dir ...

A data set appears in `--data_dir` whole or not at all: it is written to a temporary folder that is
renamed at the end. A run that was stopped or killed is simply repeated; it removes what the last
one left and starts clean. Pictures that cannot be used are left out and listed with the reason in
`rejected.csv` beside the records. Rows and pictures that belong to no split stand there too, with
an empty split, so that what was used and what was left out add up to what was there.
"""

import argparse
import collections
import contextlib
import csv
import functools
import io
import json
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import datasets, disk, locks
from data_pipelines.images.resampling import resample
from data_pipelines.schema import FOREHEAD, NUM_LANDMARKS, DataError

_SHOWN_REASONS = 8
_BATCH = 16
# Window of the FAN detector: 200 pixels for a box with width plus height of 195, moved up a little.
_WINDOW_SCALE = 200 / 195
_WINDOW_LIFT = 0.12


class Interrupted(Exception):
    """The run was asked to stop; nothing of it is left behind."""


def prepare(
    dataset: str,
    manual_dir: str | Path,
    data_dir: str | Path,
    *,
    landmarks: Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray] | None = None,
    workers: int = 4,
    check: str = "full",
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Prepares one data set; returns its folder, also when it was prepared before.

    Args:
      dataset: `name` or `name/config`.
      manual_dir: the user's files; for `manifest` also the file itself.
      data_dir: where the result goes.
      landmarks: `landmarks(pictures, boxes)` with n uint8 RGB pictures and float32 [n, 4] boxes
        (x0, y0, x1, y1) gives float32 [n, 68, 2], which replace the landmarks of the data set.
      workers: threads that read and check pictures.
      check: "full" decodes every picture; "header" only those that must be converted.
      progress: called as `progress(split, done, total)`.

    Raises:
      DataError: unknown data set or config, the wrong folder, or another run is at work.
    """
    builder = make_builder(dataset, manual_dir, data_dir)
    builder.workers, builder.check, builder.landmarker = workers, check, landmarks
    builder.progress = progress or builder.progress
    run(builder)
    return Path(builder.data_dir)


def run(builder: Any) -> bool:
    """Prepares what a builder describes; False where that was done before.

    Raises:
      DataError: the wrong folder, or another run is at work.
      disk.DiskFullError: there is no room for the records.
    """
    target = Path(builder.data_dir)
    if (target / "affect.json").is_file():
        return False
    # Looking for the layout costs nothing and fails before anything is written.
    builder.locate(builder.manual_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk.explained(target), _only_run(target.parent / ".lock"):
        _remove_leftovers(target)
        with tempfile.TemporaryDirectory() as downloads, _quiet_tfds():
            builder.download_and_prepare(download_dir=downloads)
    return True


def make_builder(dataset: str, manual_dir: str | Path, data_dir: str | Path) -> Any:
    """The builder for `name` or `name/config`.

    Raises:
      DataError: unknown name or config, or a missing folder.
    """
    manual_dir, data_dir = Path(manual_dir).expanduser(), Path(data_dir).expanduser()
    name, _, config = dataset.partition("/")
    cls = datasets.builder_class(name)
    if not manual_dir.exists():
        raise DataError(f"--manual_dir: there is no folder {manual_dir}")
    known = [c.name for c in cls.BUILDER_CONFIGS]
    if config and known and config not in known:
        raise DataError(f"{name} has no config {config!r}; known: {', '.join(known)}")
    if config and not known and name != "manifest":
        raise DataError(f"{name} has no configs; ask for --dataset {name}")
    config = config or (known or [None])[0]
    with _quiet_tfds():
        return cls(manual_dir=manual_dir, data_dir=str(data_dir), config=config)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Holds back TFDS's remarks on downloads and configs, which do not concern users' own files."""
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
    """Holds a lock that the system releases when the process dies, however it dies."""
    with open(lock, "w") as f:
        if not locks.take(f):
            raise DataError(f"another run is preparing this data set ({lock} is held)")
        yield


def _remove_leftovers(target: Path) -> None:
    """Removes temporary folders of runs that were killed, and a target without its side files."""
    for path in target.parent.glob(f"incomplete.*_{target.name}"):
        shutil.rmtree(path)
    if target.exists():
        shutil.rmtree(target)


def compare(meta: Mapping[str, Any], published: Any) -> list[str]:
    """Warnings about counts that differ from the published ones, with both numbers.

    Args:
      meta: content of `affect.json`.
      published: a `datasets.card.Published`.
    """
    lines = []
    where = meta["dataset"] + (f" ({meta['release']})" if meta["release"] else "")
    for split, expected in published.examples.items():
        if split not in meta["splits"]:
            lines.append(f"{where}: split {split} is absent; published: {expected} pictures")
            continue
        ours = meta["splits"][split]["examples"]
        if ours != expected:
            lines.append(f"{where} {split}: {ours} pictures, published: {expected}")
    for split, expected in published.groups.items():
        summary = meta["splits"].get(split)
        if summary and summary["persons"] != expected:
            lines.append(
                f"{where} {split}: {summary['persons']} {meta['person']}s, published: {expected}"
            )
    for split, expected in published.per_class.items():
        ours = tuple(meta["splits"].get(split, {}).get("per_class", ()))
        if ours and ours != tuple(expected):
            pairs = zip(meta["class_names"], ours, expected, strict=True)
            differing = ", ".join(f"{n} {a} (published {b})" for n, a, b in pairs if a != b)
            hint = ""
            if sorted(ours) == sorted(expected):
                hint = "; the same numbers in another order: the labels of this copy are permuted"
            lines.append(f"{where} {split}: {differing}{hint}")
    return lines


def describe(name: str) -> str:
    """Name, labels, splits, expected layout and where to apply, as text."""
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
    for split, meaning in card.splits.items():
        counts = {key: p.examples[split] for key, p in cls.published.items() if split in p.examples}
        sizes = ", ".join(f"{n:,}{f' ({k})' if k else ''}" for k, n in counts.items())
        lines.append(f"  split   {split}: {meaning}{f'; {sizes} pictures' if sizes else ''}")
    lines.append("  expected in --manual_dir:")
    lines += [f"    {line}" for line in card.expected.strip("\n").splitlines()]
    lines.append(f"  layout  {card.checked}")
    lines.append(f"  apply   {card.apply}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = _parser().parse_args(argv)
    if args.dataset == "list":
        print("\n\n".join(describe(name) for name in datasets.names()))
        return 0
    try:
        if not args.manual_dir or not args.data_dir:
            raise DataError("give --manual_dir (your files) and --data_dir (where to write)")
        with _stop_on_sigterm(), _Bar() as bar:
            builder = make_builder(args.dataset, args.manual_dir, args.data_dir)
            builder.workers, builder.check, builder.progress = args.workers, args.check, bar
            if args.landmarks:
                builder.landmarker = load_landmarker(args.landmarks)
            existed = not run(builder)
    except (DataError, OSError) as e:  # such as a full disk, or a folder that may not be written
        print(f"error: {e}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print("stopped; nothing was left behind, run the command again", file=sys.stderr)
        return 130
    _summarise(builder, existed)
    if existed and args.landmarks:
        print(
            "warning: --landmarks had no effect: the landmarks are those of the first time",
            file=sys.stderr,
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dataset", required=True, help="name, name/config, or list")
    parser.add_argument("--manual_dir", help="your files")
    parser.add_argument("--data_dir", help="where the prepared data set goes")
    parser.add_argument("--landmarks", help="model folder: recompute the 68 landmarks with it")
    parser.add_argument("--workers", type=int, default=4, help="threads that read pictures")
    parser.add_argument(
        "--check", choices=("full", "header"), default="full", help="full: decode every picture"
    )
    return parser


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the temporary folder is removed."""

    def stop(signum: int, frame: Any) -> None:
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

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, split: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if split != self._split:
            self.__exit__()
            self._bar = tqdm(desc=split, total=max(total, 0) or None, unit=" pictures", leave=True)
            self._split = split
        self._bar.update(done - self._bar.n)


def _summarise(builder: Any, existed: bool) -> None:
    target = Path(builder.data_dir)
    meta = json.loads((target / "affect.json").read_text(encoding="utf-8"))
    print(f"{'already prepared' if existed else 'prepared'}: {target}")
    if existed:
        print("  (remove that folder to prepare it again)")
    if meta["release"]:
        print(f"  release found: {meta['release']}")
    for split, summary in meta["splits"].items():
        counts = zip(meta["class_names"], summary["per_class"], strict=True)
        classes = ", ".join(f"{n} {c}" for n, c in counts)
        persons = f", {summary['persons']} {meta['person']}s" if summary["persons"] else ""
        print(f"  {split}: {summary['examples']} pictures{persons}, {summary['rejected']} rejected")
        if classes:
            print(f"    {classes}")
    for line in compare(meta, builder.figures(meta["release"], meta["config"])):
        print(f"warning: {line}", file=sys.stderr)
    for reason, count in meta["passed_over"].items():
        print(f"  not used by this config: {count} x {reason}")
    for reason, count in meta["left_out"].items():
        print(f"  in no split: {count} x {reason}")
    with open(target / "rejected.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    reasons = collections.Counter(row["reason"] for row in rows if row["split"])
    if rows:
        print(f"  rejected pictures: {target / 'rejected.csv'}")
        for reason, count in reasons.most_common(_SHOWN_REASONS):
            print(f"    {count} x {reason}")


def load_landmarker(model: str) -> Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray]:
    """A function that finds 68 landmarks with a landmark model.

    Args:
      model: folder of a model with 68 heatmaps, as `affect_jax.convert` or training writes it.

    Raises:
      DataError: there is no such model, it gives no heatmaps of 68 landmarks, or it was not trained
        for them.
    """
    # The only place where this package knows of the other one, and only when asked to.
    import affect_jax
    from affect_jax.models.landmarks import decode_heatmaps

    try:
        predictor = affect_jax.load(model)
    except ValueError as e:
        raise DataError(f"--landmarks: {e}") from e
    size = predictor.loaded.preprocessing.image_size
    decode = predictor.loaded.arguments.get("decode", "quarter")

    def points(batch: np.ndarray) -> np.ndarray:
        heatmaps = predictor.outputs(batch).get("heatmaps")
        if heatmaps is None or heatmaps.shape[-1] != NUM_LANDMARKS:
            raise DataError(f"--landmarks: {model} gives no heatmaps of {NUM_LANDMARKS} landmarks")
        grid = np.asarray(decode_heatmaps(heatmaps, decode)[0])
        return grid / np.array(heatmaps.shape[2:0:-1], np.float32)

    seen = predictor.loaded.preprocessing
    follows = seen.crop_scale if seen.crop in ("auto", "landmarks") else 0.0  # the landmarks
    if not follows and "workdir_config" in predictor.loaded.provenance:
        raise DataError(
            f"--landmarks: {model} was trained on whole pictures, not on faces cut out by their "
            "box; train one with data.crop=auto, as configs/fan_synthetic.py does"
        )
    trained_for = predictor.loaded.provenance.get("trained_for")
    if trained_for is not None and "landmarks" not in trained_for:
        raise DataError(
            f"--landmarks: {model} was trained for {', '.join(trained_for)}, not for landmarks: "
            "its heatmaps are attention; train one as configs/fan_synthetic.py does"
        )
    crop_scale = follows / (1 + seen.margin)
    return functools.partial(find_landmarks, points, size=size, crop_scale=crop_scale)


def find_landmarks(
    points: Callable[[np.ndarray], np.ndarray],
    pictures: Sequence[np.ndarray],
    boxes: np.ndarray,
    *,
    size: int,
    crop_scale: float = 0.0,
) -> np.ndarray:
    """Landmarks of n faces, each in a square window around its box.

    Args:
      points: takes windows uint8 [B, size, size, 3] and gives [B, 68, 2] as parts of the window,
        0 at its left and upper edge and 1 at the others.
      pictures: n uint8 RGB pictures [H, W, 3].
      boxes: float32 [n, 4], x0, y0, x1, y1, the forehead included.
      size: side of the windows.
      crop_scale: side of a window over the mean side of the box around the landmarks, as the model
        was trained (see `Preprocessing`); 0: the window of the FAN detector.

    Returns:
      float32 [n, 68, 2] pixels of the pictures.
    """
    windows = np.zeros((-(-len(pictures) // _BATCH) * _BATCH, size, size, 3), np.uint8)
    corners, sides = np.empty((len(pictures), 2)), np.empty(len(pictures))
    for i, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
        centre, sides[i] = _window(box, crop_scale)
        corners[i] = centre - sides[i] / 2
        windows[i] = resample(picture, *corners[i], sides[i], sides[i], size)
    # Batches of one size, so that a model is compiled once.
    parts = np.concatenate(
        [points(windows[k : k + _BATCH]) for k in range(0, len(windows), _BATCH)]
    )
    found = corners[:, None] + parts[: len(pictures)] * sides[:, None, None] - 0.5
    return found.astype(np.float32)


def _window(box: np.ndarray, crop_scale: float) -> tuple[np.ndarray, float]:
    """Centre and side of the window around a face box, in pixels with edges at integers."""
    x0, y0, x1, y1 = (float(v) + 0.5 for v in box)  # from pixel centres to the picture's edge
    if crop_scale:
        y0 += FOREHEAD / (1 + FOREHEAD) * (y1 - y0)  # training framed the landmarks alone
        side = crop_scale * (x1 - x0 + y1 - y0) / 2
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2]), max(side, 1.0)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2 - _WINDOW_LIFT * (y1 - y0)])
    return centre, max(_WINDOW_SCALE * (x1 - x0 + y1 - y0), 1.0)


if __name__ == "__main__":
    sys.exit(main())
