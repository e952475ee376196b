"""Some records of a source as a source."""

from typing import Any

import numpy as np

from data_pipelines.schema import Source, tracks_of

_OF_THE_WHOLE = (
    *("class_names", "num_classes", "has", "has_persons", "group_names"),
    *("attribute_names", "attribute_values"),
)


class Subset:
    """Some records of a source, in the order of `rows`; follows `example.Source`.

    Attributes:
      base: the source.
      rows: int64 [n], the records of `base`.
    """

    def __init__(self, base: Source, rows: np.ndarray):
        self.base, self.rows = base, np.asarray(rows, np.int64)
        self.labels = np.asarray(base.labels)[self.rows]
        self.groups = np.asarray(base.groups)[self.rows]
        self.tracks = tracks_of(base)[self.rows]
        self.persons = np.asarray(base.persons)[self.rows].astype(str).tolist()
        for name in _OF_THE_WHOLE:
            if hasattr(base, name):
                setattr(self, name, getattr(base, name))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.base[int(self.rows[i])]

    def record_columns(self) -> dict[str, Any]:
        """Returns the columns of the chosen records, as `fingerprint` compares them."""
        if not hasattr(self.base, "record_columns"):
            return {"person": self.persons}
        columns = self.base.record_columns()
        return {
            name: column[self.rows]
            if isinstance(column, np.ndarray)
            else [column[i] for i in self.rows.tolist()]
            for name, column in columns.items()
        }

    def record_facts(self) -> dict[str, Any]:
        """Returns what `fingerprint` compares of all records of the base together."""
        return self.base.record_facts() if hasattr(self.base, "record_facts") else {}

    def describe(self, i: int) -> str:
        return self.base.describe(int(self.rows[i]))
