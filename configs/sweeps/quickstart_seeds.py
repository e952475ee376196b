"""The quickstart with five seeds: how far its figures are those of one draw.

Trains: `configs/quickstart.py`, as it is. Another processor rounds otherwise, which acts as another
seed does, so that a single run tells little. Paper: Toisoul et al., 2021. Time: five times that of
the quickstart. Results: README.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/quickstart_seeds.py \
             --workdir runs/quickstart_seeds
"""

from typing import Any

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart."""
    return quickstart.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """One row."""
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
