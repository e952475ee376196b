"""Names of what a run writes into its workdir."""

CHECKPOINTS_FOLDER = "checkpoints"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "eval.jsonl"
