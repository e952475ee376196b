"""ARBEx on Aff-Wild2: the recipe of `arbex_rafdb` with these data.

Trains: as there. It needs a GPU and has not been trained here.
Paper: Wasi et al., 2023, Table 5: accuracy 0.7248.
Commands: python -m data_pipelines.prepare --dataset aff_wild2 --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_affwild2.py --workdir runs/arbex \\
              --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb


def get_config() -> ConfigDict:
    """Return `arbex_rafdb` on `aff_wild2`."""
    config = arbex_rafdb.get_config()
    config.data.dataset = "aff_wild2"
    # Validate every 50 epochs: there are 88,000 validation frames, and 4,000 in an epoch.
    config.eval_every = 3100
    config.checkpoint.every = 3100
    return config
