"""ARBEx on FER+: the recipe of `arbex_rafdb` with these data.

Trains: as there; meant for a GPU or more, and not trained here.
Paper: Wasi et al., 2023, Table 5: accuracy 0.9309.
Commands: python -m data_pipelines.prepare --dataset ferplus --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_ferplus.py --workdir runs/arbex \\
              --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb


def get_config() -> ConfigDict:
    """`arbex_rafdb` on `ferplus`."""
    config = arbex_rafdb.get_config()
    config.data.dataset = "ferplus"
    return config
