"""RALD: does NNLDL help with wrong labels, and does it find the true mixtures?

Trains: as `rald_ablation_features`, with 0 to 40 % of the training labels replaced by another
class; a plain head ("a"), RALD without ("g") and with NNLDL ("all"), and "all" with a loss of NNLDL
that counts 33 times more ("all strong"); five seeds per row. Paper: Liu et al., 2024, which claims
disambiguation and measures accuracy without wrong labels alone. Time: about 10 seconds per run on 2
CPU cores. Results: docs/results/rald.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/rald_ambiguity.py \
             --workdir runs/rald_ambiguity --config.data.features=features.npz
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import rald_ablation, rald_ablation_features

_NOISE = (0, 10, 20, 40)  # percent
_STRONG = {"loss.relations.reduction": "batchmean"}


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    return rald_ablation_features.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: noise in percent and parts."""
    kinds = {name: rald_ablation.parts(name) for name in ("a", "g", "all")}
    kinds["all strong"] = kinds["all"] | _STRONG
    rows: dict[str, dict[str, Any]] = {}
    contrasts: list[tuple[str, str]] = []
    for noise in _NOISE:
        wrong = {"data.features_noise": noise / 100}
        rows |= {f"n{noise} {name}": wrong | changes for name, changes in kinds.items()}
        contrasts += [
            (f"n{noise} all", f"n{noise} g"),
            (f"n{noise} all strong", f"n{noise} g"),
            (f"n{noise} g", f"n{noise} a"),
        ]
    return {
        "title": "RALD: wrong labels and true mixtures, on features of a trained ResNet-18",
        "notes": rald_ablation.NOTE,
        "seeds": (0, 1, 2, 3, 4),
        "rows": rows,
        "columns": ("mixture_kl", "mixture_accuracy", "accuracy", "coarse_accuracy", "ece"),
        "contrasts": tuple(contrasts),
        "grid": {
            "column": "mixture_kl",
            "corner": "wrong labels",
            "across": [f"{noise} %" for noise in _NOISE],
            "lines": {name: [f"n{noise} {name}" for noise in _NOISE] for name in kinds},
        },
    }
