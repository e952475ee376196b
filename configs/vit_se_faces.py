"""ViT-Ti/16 with squeeze and excitation on your own photos.

It starts from scratch or from stage 1.

Trains: expressions at 96 px with 4 of the 12 blocks, on the split and with the metrics of
`resnet18_faces` and `emofan_faces`. From scratch it stays far behind EmoFAN: transformers need
weights from a large data set (--config.init_from) or many more photos. Paper: Aouayeb et al., 2021.
Time: about 4 minutes of one busy CPU core for 1,300 photos. Score: see docs/results/vit_se.md.
Command: python -m affect_jax.main --config configs/vit_se_faces.py --workdir runs/vit_se_faces \\
             --config.data.manifest=PATH.csv
From stage 1 of configs/sweeps/vit_se_stages.py:
         --config.init_from=runs/vit_se_stages/stages/ViT --config.init_allow="('se',)"
"""

from ml_collections import ConfigDict

from configs import emofan_faces, vit_se_synthetic


def get_config() -> ConfigDict:
    """Return the small model on the data and splits of `emofan_faces`.

    The faces are not shifted at random.
    """
    config = emofan_faces.get_config()
    small = vit_se_synthetic.get_config()
    config.system = small.system
    config.model = small.model
    config.optimizer = small.optimizer
    config.optimizer.learning_rate = 5e-4
    config.landmark_stage.steps = 0
    config.batch_size = small.batch_size
    config.num_steps = 600
    config.log_every = 50
    config.eval_every = 150
    config.data.augment = "none"
    config.data.augment_overrides.flip = 0.5
    return config
