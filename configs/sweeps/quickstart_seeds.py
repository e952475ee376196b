"""The quickstart with five seeds: the spread of its figures.

Trains: `configs/quickstart.py`. Another processor rounds differently, which changes a result as
much as another seed. A single run therefore says little. Paper: Toisoul et al., 2021. Time: five
times the quickstart. Results: README.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/quickstart_seeds.py \
             --workdir runs/quickstart_seeds
"""

from typing import Any

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """Return the quickstart."""
    return quickstart.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return one row."""
    return {
        "title": "The quickstart, five seeds",
        "seeds": (0, 1, 2, 3, 4),
        "rows": {"EmoFAN": {}},
        "columns": (
            "accuracy",
            "f1_macro",
            "ece",
            "valence_ccc",
            "arousal_ccc",
            "nme",
            "test_flip/valence_ccc",
            "test_flip/arousal_ccc",
        ),
    }
