"""The records of a batch, for any kind of data.

Training follows a plan, evaluation the order of the source. A process takes its part of each.
"""

import dataclasses

import numpy as np

from data_pipelines.loading.options import Options
from data_pipelines.loading.sampling import RefinementPlan


@dataclasses.dataclass(frozen=True)
class BatchRows:
    """The rows of this process's part of a batch, arrays [k].

    Attributes:
      epochs, places: int64, epoch and place in it, which random choices depend on.
      records: int64, positions in the source; beyond its end in padding.
      mask: bool, False for padding.
    """

    epochs: np.ndarray
    places: np.ndarray
    records: np.ndarray
    mask: np.ndarray

    @classmethod
    def at(
        cls, step: int, plan: RefinementPlan | None, options: Options, count: int
    ) -> "BatchRows":
        """Return the rows of a step.

        Args:
          step: of training, or of evaluation, pass after pass.
          plan: order of training examples; None = evaluation.
          options: batch size, and this process among all.
          count: records of the source.
        """
        part = options.part
        if plan is None:
            step %= -(-count // options.batch_size)
            start = step * options.batch_size + options.shard_index * part
            records = np.arange(start, start + part, dtype=np.int64)
            return cls(np.zeros(part, np.int64), records, records, records < count)
        positions = plan.batch_positions(step, options.shard_index, options.shard_count)
        return cls(*plan.at(positions), np.ones(part, bool))
