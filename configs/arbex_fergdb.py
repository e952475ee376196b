"""ARBEx on FERG-DB: the recipe of `arbex_rafdb` with these data.

Trains: as there. It needs a GPU and has not been trained here.
Paper: Wasi et al., 2023, Table 5: accuracy 0.9818. The paper does not say how it split the data, so
do not compare this value with folds of unseen characters. For six such folds, add --mode=crossval
--config.crossval.protocol=leave_one_out to the second command.
Commands: python -m data_pipelines.prepare --dataset ferg_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_fergdb.py --workdir runs/arbex \\
              --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb


def get_config() -> ConfigDict:
    """Return `arbex_rafdb` on `ferg_db`."""
    config = arbex_rafdb.get_config()
    config.data.dataset = "ferg_db"
    return config
