"""Names of what a run writes into its workdir."""

CHECKPOINTS_FOLDER = "checkpoints"
REPORT_FOLDER = "report"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "eval.jsonl"
