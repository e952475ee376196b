"""Find images and persons that are in more than one split.

Images: the same file, or nearly the same image. Persons: by their names, with the videos or groups
that a split divides (`shared_names`).

Near-duplicates are found by two perceptual hashes that must agree: a difference hash (256 signs of
horizontal brightness steps) and a DCT hash (the signs of 63 low frequencies). Either alone takes
many aligned faces for the same image; together they find re-encoded, resized and slightly changed
copies, and mirrored ones. The command is `python -m data_pipelines.splits leakage`.
"""

import csv
import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.images.decode import decode
from data_pipelines.schema import DecodeError, Source

log = logging.getLogger(__name__)

# Chosen on 2,261 web faces: of the 2.5 million pairs 5 are near, all of them neighbouring photos of
# one person, while at least 98 % of copies are found that were re-encoded at quality 10, scaled to
# 48 pixels, blurred, brightened or cut by 2 % at two edges. A cut of 5 % is not found.
DIFFERENCE_BITS = 40
DCT_BITS = 10
_BLOCK = 4096
_SHRUNK = 32


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images in different splits that are the same, or nearly.

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
class ImageHashes:
    """Hashes of the n images of one split.

    Attributes:
      digest: n SHA-256 digests of the stored bytes ("" where unreadable).
      difference: uint64 [n, 4]; dct: uint64 [n].
      mirrored_difference, mirrored_dct: the same of the mirrored images.
      flat: bool [n], images without structure, whose hashes mean nothing.
    """

    digest: list[str]
    difference: np.ndarray
    dct: np.ndarray
    mirrored_difference: np.ndarray
    mirrored_dct: np.ndarray
    flat: np.ndarray


def hash_images(source: Source) -> ImageHashes:
    """Hash every image of a source; unreadable ones are skipped and logged."""
    n = len(source)
    digest = [""] * n
    flat = np.ones(n, bool)
    bits = np.zeros((2, n, 5), np.uint64)
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
            bits[k, i] = perceptual_hash(view)
    return ImageHashes(digest, bits[0, :, :4], bits[0, :, 4], bits[1, :, :4], bits[1, :, 4], flat)


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """Return difference hash (4 words) and DCT hash of a uint8 image: uint64 [5]."""
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
    hashes: Mapping[str, ImageHashes],
    *,
    difference_bits: int = DIFFERENCE_BITS,
    dct_bits: int = DCT_BITS,
) -> list[Pair]:
    """Find images that are in more than one split.

    Args:
      hashes: split -> what `hash_images` returns.
      difference_bits, dct_bits: largest Hamming distances (of 256 and 63) that count as near.

    Returns:
      the pairs, exact ones first, then by distance.
    """
    names = list(hashes)
    pairs: list[Pair] = []
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            exact = _exact(a, hashes[a], b, hashes[b])
            known = {(p.a, p.b) for p in exact}
            near = _near(a, hashes[a], b, hashes[b], difference_bits, dct_bits)
            pairs += exact + [p for p in near if (p.a, p.b) not in known]
    order = {"exact": 0, "near": 1, "mirrored": 2}
    return sorted(pairs, key=lambda p: (order[p.kind], p.distance, p.a, p.b))


def _exact(a: str, left: ImageHashes, b: str, right: ImageHashes) -> list[Pair]:
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
    a: str, left: ImageHashes, b: str, right: ImageHashes, difference_bits: int, dct_bits: int
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
            # A symmetric image is near in both views; the plain one is named.
            found.setdefault(place, Pair(kind, (a, place[0]), (b, place[1]), distance))
    return list(found.values())


def _close(
    left: tuple[np.ndarray, np.ndarray],
    right: tuple[np.ndarray, np.ndarray],
    difference_bits: int,
    dct_bits: int,
) -> list[tuple[int, int, int]]:
    """Return (i, j, distance) of all close pairs, filtered by a cheap hash first."""
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(left[1]), _BLOCK):
        for other in range(0, len(right[1]), _BLOCK):
            block = left[1][start : start + _BLOCK, None] ^ right[1][None, other : other + _BLOCK]
            i, j = np.nonzero(np.bitwise_count(block) <= dct_bits)
            i, j = i + start, j + other
            distance = np.bitwise_count(left[0][i] ^ right[0][j]).sum(1, dtype=np.int64)
            near = distance <= difference_bits
            found += zip(i[near].tolist(), j[near].tolist(), distance[near].tolist(), strict=True)
    return found


@dataclasses.dataclass(frozen=True)
class Shared:
    """A person, or a group of images of one person, that is in more than one split.

    Attributes:
      kind: "person", or "group" (usually a video or clip).
      name: as the data give it.
      counts: split -> number of its records there, two splits or more.
      examples: split -> description of the first of them.
    """

    kind: str
    name: str
    counts: Mapping[str, int]
    examples: Mapping[str, str]


def shared_names(sources: Mapping[str, Source]) -> list[Shared]:
    """Return persons, then groups, that are in more than one split; by name.

    Persons are the units of the splits (`persons.components`): a video if its person is unknown, an
    image if its video is unknown. A group counts together with its person, because different
    persons may use the same name for their clips.
    """
    persons: dict[str, dict[str, list[int]]] = {}
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for split, source in sources.items():
        names = source.group_names
        numbers = np.asarray(source.groups).tolist()
        for i, (person, g) in enumerate(zip(source.persons, numbers, strict=True)):
            persons.setdefault(person, {}).setdefault(split, []).append(i)
            if 0 <= g < len(names) and names[g] != person:
                groups.setdefault((person, names[g]), {}).setdefault(split, []).append(i)
    found = [("person", name, places) for name, places in persons.items()]
    found += [("group", name, places) for (_, name), places in groups.items()]
    order = {"person": 0, "group": 1}
    return sorted(
        (
            Shared(
                kind,
                name,
                {split: len(rows) for split, rows in places.items()},
                {split: sources[split].describe(rows[0]) for split, rows in places.items()},
            )
            for kind, name, places in found
            if len(places) > 1
        ),
        key=lambda s: (order[s.kind], s.name),
    )


def write_report(
    path: str | Path,
    pairs: Sequence[Pair],
    sources: Mapping[str, Source],
    shared: Sequence[Shared] = (),
) -> None:
    """Write pairs as CSV: kind, distance, split and description of both images.

    Persons and groups follow, their names in `kind`, with their first image in each split.
    """
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["kind", "distance", "split_a", "picture_a", "split_b", "picture_b"])
        for p in pairs:
            sides = [(s, sources[s].describe(i)) for s, i in (p.a, p.b)]
            writer.writerow([p.kind, p.distance, *sides[0], *sides[1]])
        for s in shared:
            for a, b in itertools.combinations(s.examples.items(), 2):
                writer.writerow([f"{s.kind} {s.name}", "", *a, *b])
