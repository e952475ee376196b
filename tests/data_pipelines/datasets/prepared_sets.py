"""Prepares a tiny data set and opens what lies beside its records."""

import csv
from pathlib import Path

from data_pipelines.images.decode import decode
from data_pipelines.prepare import prepare
from data_pipelines.schema import Source
from data_pipelines.sources.prepared import TfdsSource, find_prepared
from tests.data_pipelines.made_images import check_record


def load_source(name: str, data_dir: str | Path, split: str) -> TfdsSource:
    return TfdsSource(find_prepared(name, data_dir), split)


class Result:
    """A prepared data set and what lies beside its records."""

    def __init__(self, folder: Path, data_dir: Path, name: str):
        self.folder = folder
        self.prepared = find_prepared(name, data_dir)
        self.meta = self.prepared.meta
        with open(folder / "rejected.csv", newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
        self.rejected = {row["file"]: row["reason"] for row in rows if row["split"]}
        self.left_out = {row["file"]: row["reason"] for row in rows if not row["split"]}

    def source(self, split: str) -> TfdsSource:
        return TfdsSource(self.prepared, split)

    def names(self, split: str) -> list[str]:
        source = self.source(split)
        return [source.describe(i).partition("(")[2][:-1] for i in range(len(source))]

    def persons(self, split: str) -> list[str]:
        return self.source(split).persons


def run(tmp_path: Path, name: str, root: Path) -> Result:
    data_dir = tmp_path / "prepared"
    result = Result(prepare(name, root, data_dir, workers=2), data_dir, name)
    for split in result.prepared.splits:
        source = result.source(split)
        assert isinstance(source, Source)
        for i in range(len(source)):
            record = source[i]
            check_record(record, max(source.num_classes, 1))
            decode(record["image"])
    return result
