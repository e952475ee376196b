"""Show splits by person, and report images and persons in more than one split.

    python -m data_pipelines.splits folds   --dataset ck_plus/seven --data_dir DIR --folds 10
    python -m data_pipelines.splits folds   --manifest faces.csv [--output folds.csv]
    python -m data_pipelines.splits leakage --dataset fer2013 --data_dir DIR [--output report.csv]
    python -m data_pipelines.splits leakage --manifest faces.csv

Own images are put into folds by the hash of the person's name, data sets into even ones.
"""

import argparse
import csv
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines import disk
from data_pipelines.defaults import DataConfig
from data_pipelines.protocols import leakage
from data_pipelines.protocols.folds import by_name, kfold, leave_one_out
from data_pipelines.schema import DataError, Source
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.prepared import find_prepared, official
from data_pipelines.sources.subset import Subset

_NAMED = 20  # persons printed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status (leakage found = 1, wrong input = 2)."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        # Checked now, not after an hour of comparing.
        if args.output and not Path(args.output).absolute().parent.is_dir():
            raise DataError(f"--output: there is no folder {Path(args.output).parent}")
        sources = _sources(args)
        with disk.explained(args.output or ""):
            return _folds(args, sources) if args.command == "folds" else _leakage(args, sources)
    except (DataError, disk.DiskFullError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.splits", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    folds = commands.add_parser("folds", help="print folds by person")
    folds.add_argument("--folds", type=int, default=10, help="0: leave one person out")
    folds.add_argument("--output", help="CSV file for the fold of each image")
    folds.add_argument("--seed", type=int, help="of the folds of a prepared data set; default 0")
    report = commands.add_parser(
        "leakage", help="look for images and persons in more than one split"
    )
    report.add_argument("--output", help="CSV file for the pairs")
    report.add_argument("--difference_bits", type=int, default=leakage.DIFFERENCE_BITS)
    report.add_argument("--dct_bits", type=int, default=leakage.DCT_BITS)
    report.add_argument("--stride", type=int, default=1, help="look at every n-th image only")
    for command in (folds, report):
        command.add_argument("--dataset", default="", help="a prepared data set")
        command.add_argument("--data_dir", default="", help="where it was prepared")
        command.add_argument("--manifest", default="", help="instead of a data set: CSV or JSONL")
    return parser


def _sources(args: argparse.Namespace) -> Mapping[str, Source]:
    if args.manifest and (args.dataset or args.data_dir):
        raise DataError("give --manifest, or --dataset and --data_dir, not both")
    if args.manifest:
        return make_sources(DataConfig(source="manifest", manifest=args.manifest))
    if not args.dataset or not args.data_dir:
        raise DataError("give --manifest, or --dataset and --data_dir")
    sources = official(find_prepared(args.dataset, args.data_dir))
    if args.command == "leakage" and set(sources) == {"full"}:
        return make_sources(DataConfig(source="tfds", dataset=args.dataset, data_dir=args.data_dir))
    return sources


def _folds(args: argparse.Namespace, sources: Mapping[str, Source]) -> int:
    """Print the folds that training cuts with the same `data.folds`."""
    persons = [p for s in sources.values() for p in s.persons]
    labels = np.concatenate([s.labels for s in sources.values()])
    named = args.manifest or args.dataset.partition("/")[0] == "manifest"
    if args.seed is not None and (named or not args.folds):
        raise DataError(
            "--seed has no effect here: "
            + ("folds of a manifest follow the names" if named else "every person is a fold")
        )
    if not args.folds:
        fold = leave_one_out(persons)
    elif named:
        fold = by_name(persons, args.folds)
    else:
        fold = kfold(persons, args.folds, labels=labels, seed=args.seed or 0)
    class_names = next(iter(sources.values())).class_names
    print(f"{'fold':>4} {'persons':>8} {'images':>9}  " + "  ".join(class_names))
    for k in range(int(fold.max()) + 1):
        mine = fold == k
        names = {p for p, m in zip(persons, mine.tolist(), strict=True) if m}
        counts = np.bincount(labels[mine & (labels >= 0)], minlength=len(class_names))
        cells = "  ".join(f"{c:>{len(n)}}" for n, c in zip(class_names, counts, strict=True))
        print(f"{k:>4} {len(names):>8} {mine.sum():>9}  {cells}")
    if args.output:
        images = [s.describe(i) for s in sources.values() for i in range(len(s))]
        with open(args.output, "w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            writer.writerow(["fold", "person", "picture"])
            writer.writerows(zip(fold.tolist(), persons, images, strict=True))
        print(f"all images: {args.output}")
    return 0


def _leakage(args: argparse.Namespace, sources: Mapping[str, Source]) -> int:
    if args.stride < 1:
        raise DataError(f"--stride {args.stride}: it must be at least 1")
    shared = leakage.shared_names(sources)
    for kind in ("person", "group"):
        names = [s for s in shared if s.kind == kind]
        print(f"{kind}s: {len(names)} in more than one split")
        for s in names[:_NAMED]:
            print(f"  {s.name}: " + ", ".join(f"{k} {n}" for k, n in s.counts.items()))
        if len(names) > _NAMED:
            print(f"  ... and {len(names) - _NAMED} more")
    if args.stride > 1:
        sources = {k: Subset(s, np.arange(0, len(s), args.stride)) for k, s in sources.items()}
    hashes = {name: leakage.hash_images(source) for name, source in sources.items()}
    for name, found in hashes.items():
        unreadable = found.digest.count("")
        if unreadable and unreadable == len(found.digest):
            raise DataError(f"none of the {unreadable} images of {name} can be read")
        left_out = f", {unreadable} of them unreadable and left out" if unreadable else ""
        print(f"{name}: {len(found.digest)} images{left_out}")
    pairs = leakage.find_duplicates(
        hashes, difference_bits=args.difference_bits, dct_bits=args.dct_bits
    )
    for kind in ("exact", "near", "mirrored"):
        mine = [p for p in pairs if p.kind == kind]
        print(f"{kind}: {len(mine)} pairs across splits")
        for p in mine[:5]:
            a, b = (f"{s}: {sources[s].describe(i)}" for s, i in (p.a, p.b))
            print(f"  {a}  =  {b}  (distance {p.distance})")
    if args.output:
        leakage.write_report(args.output, pairs, sources, shared)
        print(f"all of them: {args.output}")
    return int(bool(pairs or shared))


if __name__ == "__main__":
    sys.exit(main())
