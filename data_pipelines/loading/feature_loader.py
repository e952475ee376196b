"""Make batches of stored features: rows of arrays, without work for each record."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.loading.batch_rows import BatchRows
from data_pipelines.loading.loader import BAD
from data_pipelines.loading.options import Options
from data_pipelines.loading.sampling import RefinementPlan
from data_pipelines.schema import MISSING_ID
from data_pipelines.sources.features import FeatureSource


@dataclasses.dataclass(frozen=True)
class FeatureLoader:
    """Make batches, `loader(step)`, in the order in which `loader.Loader` makes those of images.

    Nothing is decoded or augmented, and no record is unreadable. A batch has no landmarks.

    Attributes:
      source: the records.
      plan: order of training examples; None = evaluation, in the order of the source.
      options: batch size, and this process among all.
    """

    source: FeatureSource
    plan: RefinementPlan | None
    options: Options

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of this process at a step, with its empty list of bad records."""
        rows = BatchRows.at(step, self.plan, self.options, len(self.source))
        taken = np.where(rows.mask, rows.records, 0)
        # Evaluation measures by votes, learnt or not.
        votes = self.plan is None or self.source.learns_votes(self.options.data)
        batch = {
            name: column[taken]
            for name, column in self.source.columns.items()
            if votes or name != "expression_probs"
        }
        if not rows.mask.all():
            for name, column in batch.items():
                missing = MISSING_ID if column.dtype.kind == "i" else np.nan
                column[~rows.mask] = 0 if name == "image" else missing
        index = np.where(rows.mask, rows.records, MISSING_ID)
        return {**batch, "mask": rows.mask, "index": index, BAD: []}
