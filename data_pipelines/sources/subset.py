"""Some records of a source as a source."""

from typing import Any

import numpy as np

from data_pipelines.schema import Record, Source


class Subset:
    """Some records of a source, in the order of `rows`; follows `schema.Source`.

    Attributes:
      base: the source.
      rows: int64 [n], the records of `base`.
    """

    def __init__(self, base: Source, rows: np.ndarray):
        self.base, self.rows = base, np.asarray(rows, np.int64)
        self.class_names, self.num_classes, self.has = base.class_names, base.num_classes, base.has
        self.hierarchy = base.hierarchy
        self.labels = np.asarray(base.labels)[self.rows]
        self.groups = np.asarray(base.groups)[self.rows]
        self.group_names = base.group_names
        self.tracks = np.asarray(base.tracks)[self.rows]
        self.persons = np.asarray(base.persons, str)[self.rows].tolist()
        self.has_persons = base.has_persons
        self.attribute_names, self.attribute_values = base.attribute_names, base.attribute_values

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Record:
        return self.base[int(self.rows[i])]

    def describe(self, i: int) -> str:
        return self.base.describe(int(self.rows[i]))

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        """Return the columns of the chosen records."""
        return {
            name: column[self.rows]
            if isinstance(column, np.ndarray)
            else [column[i] for i in self.rows.tolist()]
            for name, column in self.base.record_columns().items()
        }

    def record_facts(self) -> dict[str, Any]:
        """Return the facts about all records of the base."""
        return self.base.record_facts()
