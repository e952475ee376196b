"""What a run writes and shows while it runs: metrics, TensorBoard events, progress, log lines.

Nothing here knows about devices or models; the training loop hands over numbers. In a run of
several processes only the main one (`is_main`) writes or shows anything.
"""

from affect_jax.runtime.files import REPORT_FOLDER, swap_folder, write_atomically
from affect_jax.runtime.logs import quiet_orbax, setup_logging
from affect_jax.runtime.metric_writer import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    NOT_METRICS,
    MetricWriter,
    read_metrics,
)
from affect_jax.runtime.progress import Progress, Throughput, duration
from affect_jax.runtime.tables import count_images, higher_is_better, results_table

__all__ = [
    "EVALUATIONS_FILE",
    "METRICS_FILE",
    "NOT_METRICS",
    "REPORT_FOLDER",
    "MetricWriter",
    "Progress",
    "Throughput",
    "count_images",
    "duration",
    "higher_is_better",
    "quiet_orbax",
    "read_metrics",
    "results_table",
    "setup_logging",
    "swap_folder",
    "write_atomically",
]
