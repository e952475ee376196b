"""ARBEx on FER+: the recipe of `arbex_rafdb` with these data.

Trains: as there; meant for a GPU or more, and not trained here.
The classes are the majority of the ten votes, as papers on FER+ count accuracy; images without a
majority are left out. `--config.data.dataset=ferplus/votes` keeps them, with all the votes.
Paper: Wasi et al., 2023, Table 5: accuracy 0.9309.
Commands: python -m data_pipelines.prepare --dataset ferplus/majority --manual_dir FOLDER \\
              --data_dir DATA
          python -m affect_jax.main --config configs/arbex_ferplus.py --workdir runs/arbex \\
              --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb


def get_config() -> ConfigDict:
    """Return `arbex_rafdb` on `ferplus/majority`."""
    config = arbex_rafdb.get_config()
    config.data.dataset = "ferplus/majority"
    return config
