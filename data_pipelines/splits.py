"""Protocol splits by person, and a report of pictures that stand in more than one split.

    python -m data_pipelines.splits folds   --dataset ck_plus/seven --data_dir DIR --folds 10
    python -m data_pipelines.splits leakage --dataset fer2013 --data_dir DIR [--output report.csv]
    python -m data_pipelines.splits leakage --manifest faces.csv

Near-duplicates are found by two perceptual hashes that must agree: a difference hash (256 signs of
horizontal brightness steps) and a DCT hash (the signs of 63 low frequencies). Each one alone takes
many aligned faces for the same picture; together they find re-encoded, resized and slightly changed
copies. A mirrored copy is looked for too.
"""

import argparse
import csv
import dataclasses
import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines import persons as person_splits
from data_pipelines.decode import decode
from data_pipelines.example import DataError, DecodeError, Source

log = logging.getLogger(__name__)

# Chosen on 2,261 web faces: of the 2.5 million pairs 5 are near, all of them neighbouring photos of
# one person, while at least 98 % of copies are found that were re-encoded at quality 10, scaled to
# 48 pixels, blurred, brightened or cut by 2 % at two edges. A cut of 5 % is not found.
DIFFERENCE_BITS = 40
DCT_BITS = 10
_BLOCK = 4096
_SHRUNK = 32


# Splits by person.


def kfold(
    persons: Sequence[str],
    folds: int,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Cuts records into folds of about equal size without parting a person.

    Persons with many pictures are placed first, each into the fold that it fills most evenly;
    with labels, evenly in every class. Ties are broken by a hash of name and seed, so the result
    depends on nothing but the arguments, and not on the order of the records.

    Args:
      persons: who is on each picture [n].
      folds: number of folds, at most the number of persons.
      labels: int [n] classes to balance, -1 = unknown.
      seed: another seed gives other folds.

    Returns:
      int32 [n], the fold of each record.

    Raises:
      DataError: fewer persons than folds, or fewer than 2 folds.
    """
    names, person = np.unique(np.asarray(persons, dtype=str), return_inverse=True)
    if not 2 <= folds <= len(names):
        raise DataError(f"{folds} folds need at least 2 and at most {len(names)}, one per person")
    classes = np.zeros(len(person), np.int64) if labels is None else np.asarray(labels) + 1
    counts = np.zeros((len(names), int(classes.max(initial=0)) + 1))
    np.add.at(counts, (person, classes), 1)
    # Shares, so that a rare class weighs as much as a frequent one; the size counts as well.
    counts = np.column_stack([counts, counts.sum(1)])
    shares = counts / np.maximum(counts.sum(0), 1)
    ranks = [_rank(name, seed) for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda p: (-counts[p, -1], ranks[p]))
    load = np.zeros((folds, counts.shape[1]))
    members = np.zeros(folds, np.int64)
    fold_of = np.empty(len(names), np.int32)
    for place, p in enumerate(order):
        cost = 2 * load @ shares[p] + (shares[p] ** 2).sum()
        # A fold must not stay empty: keep enough persons for those that are.
        empty = members == 0
        if empty.sum() >= len(order) - place:
            cost[~empty] = np.inf
        fold = int(np.lexsort((np.arange(folds), members, np.round(cost, 12)))[0])
        fold_of[p] = fold
        load[fold] += shares[p]
        members[fold] += 1
    return fold_of[person]


def leave_one_out(persons: Sequence[str]) -> np.ndarray:
    """One fold per person, numbered in the order of the names; int32 [n]."""
    _, person = np.unique(np.asarray(persons, dtype=str), return_inverse=True)
    return person.astype(np.int32)


def validation(persons: Sequence[str], fraction: float, *, seed: int = 0) -> np.ndarray:
    """Marks the records of about `fraction` of the persons; bool [n]."""
    chosen = person_splits.choose_validation(persons, fraction, seed)
    return np.fromiter((p in chosen for p in persons), bool, len(persons))


def official(prepared: Any) -> dict[str, Any]:
    """The official splits of a prepared data set by the part they play in the usual protocol.

    Args:
      prepared: what `datasets.source.find_prepared` gives.

    Returns:
      `train`, `validation` and `test` as far as there are official ones (AffectNet's validation
      set plays the test part, since its test set is not public), or `full`.
    """
    from data_pipelines.datasets.source import TfdsSource

    roles = prepared.meta["roles"]
    return {
        role: TfdsSource(prepared, split)
        for role, split in roles.items()
        if split in prepared.splits
    }


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"fold/{seed}/{name}".encode()).hexdigest()


# Leakage.


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pictures in different splits that are the same, or nearly.

    Attributes:
      kind: "exact" (same file content), "near" or "mirrored".
      a, b: (split, position) of each.
      distance: differing bits of the difference hash; 0 for exact ones.
    """

    kind: str
    a: tuple[str, int]
    b: tuple[str, int]
    distance: int


@dataclasses.dataclass
class Fingerprints:
    """Hashes of the pictures of one split, n of them.

    Attributes:
      digest: n SHA-256 digests of the stored bytes ("" where unreadable).
      difference: uint64 [n, 4]; dct: uint64 [n].
      mirrored_difference, mirrored_dct: the same of the mirrored pictures.
      flat: bool [n], pictures without structure, whose hashes mean nothing.
    """

    digest: list[str]
    difference: np.ndarray
    dct: np.ndarray
    mirrored_difference: np.ndarray
    mirrored_dct: np.ndarray
    flat: np.ndarray


def fingerprint(source: Source) -> Fingerprints:
    """Hashes every picture of a source; unreadable ones are skipped and logged."""
    n = len(source)
    digest = [""] * n
    flat = np.ones(n, bool)
    hashes = np.zeros((2, n, 5), np.uint64)
    for i in range(n):
        try:
            data = source[i]["image"]
            pixels = decode(data, grey=True) if isinstance(data, bytes) else data
        except (DecodeError, OSError) as e:
            log.warning("%s is left out of the comparison: %s", source.describe(i), e)
            continue
        raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        digest[i] = hashlib.sha256(raw).hexdigest()
        grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        flat[i] = grey.std() < 2.0
        for k, view in enumerate((grey, grey[:, ::-1])):
            hashes[k, i] = perceptual_hash(view)
    return Fingerprints(
        digest, hashes[0, :, :4], hashes[0, :, 4], hashes[1, :, :4], hashes[1, :, 4], flat
    )


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """Difference hash (4 words) and DCT hash (1 word) of a uint8 [H, W] picture; uint64 [5]."""
    grey = np.ascontiguousarray(grey)
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    difference = np.packbits(small[:, 1:] > small[:, :-1])
    shrunk = cv2.resize(grey, (_SHRUNK, _SHRUNK), interpolation=cv2.INTER_AREA)
    low = cv2.dct(shrunk.astype(np.float32))[:8, :8].ravel()
    # The mean brightness (the first value) says nothing; its bit stays 0.
    signs = low > np.median(low[1:])
    signs[0] = False
    return np.concatenate([difference, np.packbits(signs)]).view(np.uint64)


def find_duplicates(
    prints: Mapping[str, Fingerprints],
    *,
    difference_bits: int = DIFFERENCE_BITS,
    dct_bits: int = DCT_BITS,
) -> list[Pair]:
    """Pictures that stand in more than one split.

    Args:
      prints: split -> what `fingerprint` gives.
      difference_bits, dct_bits: largest Hamming distances (of 256 and 63) that count as near.

    Returns:
      pairs, exact ones first, then by distance.
    """
    names = list(prints)
    pairs: list[Pair] = []
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            exact = _exact(a, prints[a], b, prints[b])
            known = {(p.a, p.b) for p in exact}
            near = _near(a, prints[a], b, prints[b], difference_bits, dct_bits)
            pairs += exact + [p for p in near if (p.a, p.b) not in known]
    order = {"exact": 0, "near": 1, "mirrored": 2}
    return sorted(pairs, key=lambda p: (order[p.kind], p.distance, p.a, p.b))


def _exact(a: str, left: Fingerprints, b: str, right: Fingerprints) -> list[Pair]:
    places: dict[str, list[int]] = {}
    for i, digest in enumerate(left.digest):
        if digest:
            places.setdefault(digest, []).append(i)
    return [
        Pair("exact", (a, i), (b, j), 0)
        for j, digest in enumerate(right.digest)
        for i in places.get(digest, ())
    ]


def _near(
    a: str, left: Fingerprints, b: str, right: Fingerprints, difference_bits: int, dct_bits: int
) -> list[Pair]:
    rows = np.flatnonzero(~left.flat)
    columns = np.flatnonzero(~right.flat)
    found: dict[tuple[int, int], Pair] = {}
    views = (
        ("near", right.difference, right.dct),
        ("mirrored", right.mirrored_difference, right.mirrored_dct),
    )
    for kind, difference, dct in views:
        for i, j, distance in _close(
            (left.difference[rows], left.dct[rows]),
            (difference[columns], dct[columns]),
            difference_bits,
            dct_bits,
        ):
            place = (int(rows[i]), int(columns[j]))
            # A symmetric picture is near in both views; the plain one is named.
            found.setdefault(place, Pair(kind, (a, place[0]), (b, place[1]), distance))
    return list(found.values())


def _close(left, right, difference_bits: int, dct_bits: int) -> list[tuple[int, int, int]]:
    """(i, j, distance) of all close pairs; the cheap hash sorts out nearly all of them."""
    found = []
    for start in range(0, len(left[1]), _BLOCK):
        for other in range(0, len(right[1]), _BLOCK):
            block = left[1][start : start + _BLOCK, None] ^ right[1][None, other : other + _BLOCK]
            i, j = np.nonzero(np.bitwise_count(block) <= dct_bits)
            i, j = i + start, j + other
            distance = np.bitwise_count(left[0][i] ^ right[0][j]).sum(1, dtype=np.int64)
            near = distance <= difference_bits
            found += zip(i[near].tolist(), j[near].tolist(), distance[near].tolist(), strict=True)
    return found


def leakage_report(sources: Mapping[str, Source], **bits: int) -> list[Pair]:
    """Pairs of equal or nearly equal pictures across the splits; `bits` as in `find_duplicates`."""
    return find_duplicates({name: fingerprint(s) for name, s in sources.items()}, **bits)


def write_report(path: str | Path, pairs: Sequence[Pair], sources: Mapping[str, Source]) -> None:
    """Writes pairs as CSV: kind, distance, split and description of both pictures."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["kind", "distance", "split_a", "picture_a", "split_b", "picture_b"])
        for p in pairs:
            sides = [(s, sources[s].describe(i)) for s, i in (p.a, p.b)]
            writer.writerow([p.kind, p.distance, *sides[0], *sides[1]])


# Command.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status (leakage found = 1, wrong input = 2)."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        sources = _sources(args)
        return _folds(args, sources) if args.command == "folds" else _leakage(args, sources)
    except DataError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.splits", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    folds = commands.add_parser("folds", help="print folds by person")
    folds.add_argument("--folds", type=int, default=10, help="0: leave one person out")
    leakage = commands.add_parser("leakage", help="look for pictures in more than one split")
    leakage.add_argument("--output", help="CSV file for the pairs")
    leakage.add_argument("--difference_bits", type=int, default=DIFFERENCE_BITS)
    leakage.add_argument("--dct_bits", type=int, default=DCT_BITS)
    leakage.add_argument("--stride", type=int, default=1, help="look at every n-th picture only")
    for command in (folds, leakage):
        command.add_argument("--dataset", default="", help="a prepared data set")
        command.add_argument("--data_dir", default="", help="where it was prepared")
        command.add_argument("--manifest", default="", help="instead of a data set: CSV or JSONL")
        command.add_argument("--seed", type=int, default=0)
    return parser


def _sources(args: argparse.Namespace) -> dict[str, Any]:
    from data_pipelines.sources import make_sources

    if args.manifest:
        return make_sources({"source": "manifest", "manifest": args.manifest})
    if not args.dataset or not args.data_dir:
        raise DataError("give --manifest, or --dataset and --data_dir")
    from data_pipelines.datasets.source import find_prepared

    sources = official(find_prepared(args.dataset, args.data_dir))
    if args.command == "leakage" and set(sources) == {"full"}:
        return make_sources({"source": "tfds", "dataset": args.dataset, "data_dir": args.data_dir})
    return sources


def _folds(args: argparse.Namespace, sources: Mapping[str, Any]) -> int:
    persons = [p for s in sources.values() for p in s.persons]
    labels = np.concatenate([s.labels for s in sources.values()])
    if args.folds:
        fold = kfold(persons, args.folds, labels=labels, seed=args.seed)
    else:
        fold = leave_one_out(persons)
    class_names = next(iter(sources.values())).class_names
    print(f"{'fold':>4} {'persons':>8} {'pictures':>9}  " + "  ".join(class_names))
    for k in range(int(fold.max()) + 1):
        mine = fold == k
        names = {p for p, m in zip(persons, mine.tolist(), strict=True) if m}
        counts = np.bincount(labels[mine & (labels >= 0)], minlength=len(class_names))
        cells = "  ".join(f"{c:>{len(n)}}" for n, c in zip(class_names, counts, strict=True))
        print(f"{k:>4} {len(names):>8} {mine.sum():>9}  {cells}")
    return 0


def _leakage(args: argparse.Namespace, sources: Mapping[str, Any]) -> int:
    if args.stride > 1:
        sources = {k: _Strided(s, args.stride) for k, s in sources.items()}
    pairs = leakage_report(sources, difference_bits=args.difference_bits, dct_bits=args.dct_bits)
    for name, source in sources.items():
        print(f"{name}: {len(source)} pictures")
    for kind in ("exact", "near", "mirrored"):
        mine = [p for p in pairs if p.kind == kind]
        print(f"{kind}: {len(mine)} pairs across splits")
        for p in mine[:5]:
            a, b = (f"{s}: {sources[s].describe(i)}" for s, i in (p.a, p.b))
            print(f"  {a}  =  {b}  (distance {p.distance})")
    if args.output:
        write_report(args.output, pairs, sources)
        print(f"all pairs: {args.output}")
    return int(bool(pairs))


class _Strided:
    """Every n-th record of a source; enough of one for `fingerprint`."""

    def __init__(self, source: Source, stride: int):
        self._source, self._stride = source, stride

    def __len__(self) -> int:
        return -(-len(self._source) // self._stride)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._source[i * self._stride]

    def describe(self, i: int) -> str:
        return self._source.describe(i * self._stride)


if __name__ == "__main__":
    sys.exit(main())
