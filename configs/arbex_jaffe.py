"""ARBEx on JAFFE: the recipe of `arbex_rafdb` with these data.

Trains: as there. It needs a GPU and has not been trained here.
Paper: Wasi et al., 2023, Table 5: accuracy 0.9667. The paper does not say how it split the data, so
do not compare this value with folds of unseen persons. For such folds, add --mode=crossval to the
second command.
Commands: python -m data_pipelines.prepare --dataset jaffe --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_jaffe.py --workdir runs/arbex \\
              --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb


def get_config() -> ConfigDict:
    """Return `arbex_rafdb` on `jaffe`."""
    config = arbex_rafdb.get_config()
    config.data.dataset = "jaffe"
    return config
