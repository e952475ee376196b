"""Files and rows that belong to no split, so that all counts add up."""

import collections
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.images.image_files import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

_NAMED = 20  # lines in the log
_UNNAMED = "images that no list, label or class folder names"


class Leftovers:
    """Files and rows that belong to no split, with reasons and counts.

    Attributes:
      entries: (name, reason, number of images or rows), for `rejected.csv`.
      passed: reason -> number of images that a config leaves out by design.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, int]] = []
        self.passed: collections.Counter[str] = collections.Counter()
        self._seen: collections.Counter[str] = collections.Counter()

    def leave_out(self, name: str, reason: str, count: int = 1) -> None:
        """Note a file, row or folder that no split takes."""
        self.entries.append((name, reason, count))

    def pass_over(self, images: Iterable[Path], reason: str) -> None:
        """Note images that this config does not use."""
        for path in images:
            self.passed[reason] += 1
            self.see(path)

    def see(self, image: Path) -> None:
        """Note that an image on disk became a record, used or rejected."""
        self._seen[str(image.parent)] += 1

    def count_unseen(self, places: Iterable[Path]) -> None:
        """Leave out every image below `places` that was not seen, folder by folder."""
        places = set(places)
        for place in sorted(p for p in places if not places.intersection(p.parents)):
            for folder, inner, files in os.walk(place):
                inner[:] = sorted(n for n in inner if n[0] != "." and n != "__MACOSX")
                there = sum(n[0] != "." and Path(n).suffix.lower() in IMAGE_SUFFIXES for n in files)
                unseen = there - self._seen[folder]
                if unseen > 0:
                    name = str(Path(folder).relative_to(place.parent))
                    self.leave_out(name, f"{_UNNAMED} ({unseen})", unseen)

    def report(self, name: str) -> None:
        """Name the first entries in the log."""
        for entry, reason, _ in self.entries[:_NAMED]:
            log.warning("%s: left out: %s: %s", name, entry, reason)
        if len(self.entries) > _NAMED:
            log.warning("%s: left out: %d more", name, len(self.entries) - _NAMED)

    def summary(self) -> dict[str, int]:
        """Return reason -> count of what no split takes, for `affect.json`."""
        counts: collections.Counter[str] = collections.Counter()
        for _, reason, count in self.entries:
            counts[_UNNAMED if reason.startswith(_UNNAMED) else reason] += count
        return dict(counts)
