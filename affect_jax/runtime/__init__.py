"""Devices and processes, and what a run writes: metrics, progress, logs, files.

In a run of several processes only the main one (`is_main`) writes or shows anything.
"""

from affect_jax.runtime.files import replace_folder, write_atomically
from affect_jax.runtime.logs import quiet_orbax, setup_logging
from affect_jax.runtime.metric_writer import NOT_METRICS, MetricWriter, read_metrics
from affect_jax.runtime.progress import Progress, Throughput, duration
from affect_jax.runtime.tables import count_images, higher_is_better, results_table
from affect_jax.runtime.workdir import (
    CHECKPOINTS_FOLDER,
    EVALUATIONS_FILE,
    METRICS_FILE,
    REPORT_FOLDER,
)

__all__ = [
    "CHECKPOINTS_FOLDER",
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
    "replace_folder",
    "results_table",
    "setup_logging",
    "write_atomically",
]
