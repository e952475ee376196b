"""RALD, Table 3: the parts one by one, on synthetic fine-grained faces.

Trains: the network of `rald_synthetic` with the parts of each row of the table, three seeds per
row. Paper: Liu et al., 2024 (on FG-Emotions). Time: about 5 minutes per run on 2 CPU cores.
Results: docs/results/rald.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/rald_ablation.py \
             --workdir runs/rald_ablation --config.sweep.rows="a,c,g,all"

`rald_ablation_features` trains the same rows on stored features, in seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import rald_synthetic

_SWITCHES = ("itrr", "hlrr", "lgifo", "nnldl")
_PARTS: dict[str, tuple[str, ...]] = {
    "b": ("itrr",),
    "c": ("itrr", "nnldl"),
    "d": ("lgifo",),
    "e": ("itrr", "lgifo"),
    "f": ("hlrr", "lgifo"),
    "g": ("itrr", "hlrr", "lgifo"),
    "all": ("itrr", "hlrr", "lgifo", "nnldl"),
}
_PAPER = {  # mean of class accuracies in percent
    "a": 91.91,
    "b": 96.60,
    "c": 96.45,
    "d": 95.93,
    "e": 96.80,
    "f": 96.06,
    "g": 97.25,
    "all": 97.34,
}
# The blocks of the paper's equations: no residual connection, no standardised features.
PRINTED = {"model.relations.normalise": False, "model.relations.residual": False}
COLUMNS = (
    "balanced_accuracy",
    "accuracy",
    "mixture_accuracy",
    "coarse_accuracy",
    "errors_within_coarse",
    "mixture_kl",
    "ece",
    "test_self/balanced_accuracy",
    "test_batch/balanced_accuracy",
)
NOTE = (
    "Balanced accuracy is the mean of class accuracies, as in the paper. Training labels are drawn "
    "from the true mixtures of the images; mixture_kl is the divergence of predictions from the "
    "mixtures. Images are compared with the bank, in the columns test_self with nothing, in "
    "test_batch with shuffled test images."
)


def parts(row: str) -> dict[str, Any]:
    """Return the changes of `rald_synthetic` that make a row of Table 3."""
    if row == "a":
        return {"model.relations.enabled": False}
    chosen = {f"model.relations.{name}": name in _PARTS[row] for name in _SWITCHES}
    return {**chosen, "model.relations.hierarchy_bias": "hlrr" in _PARTS[row]}


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    return rald_synthetic.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows of Table 3, and all parts as the paper prints them."""
    return {
        "title": "RALD: its parts, synthetic fine-grained faces",
        "notes": NOTE,
        "seeds": (0, 1, 2),
        "rows": {row: parts(row) for row in _PAPER} | {"all printed": PRINTED},
        "columns": COLUMNS,
        "reference": "a",
        "contrasts": (
            *(("all", "a"), ("all", "g"), ("c", "b"), ("g", "e"), ("f", "d")),
            ("all", "all printed"),
        ),
        "paper": {row: {"balanced_accuracy": value / 100} for row, value in _PAPER.items()},
    }
