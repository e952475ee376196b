"""POSTER++ on RAF-DB: the published recipe at full size.

Trains: image features (IR-50) asked by frozen landmark features (MobileFaceNet), on 7 expressions,
with sharpness-aware minimisation. Both networks start from weights that their authors released and
that you bring: IR-50 of a face recogniser, MobileFaceNet of a landmark detector.
Paper: Mao et al., "POSTER++", 2023; accuracy 0.9221. Time: meant for a GPU or more. Score: not
trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/poster_v2_rafdb.py --workdir runs/poster_v2 \\
              --config.data.data_dir=DATA \\
              --config.init_from=ir50.pth,mobilefacenet_model_best.pth.tar
Without init_from the landmark network would stay as random as it began: then train it too, with
--config.optimizer.freeze="()".
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the published recipe: 200 epochs of batches of 144."""
    config = base.get_config()
    config.system = "classifier"
    config.num_epochs = 200.0
    config.batch_size = 144
    # An epoch is 72 steps, too few to validate and save some 400 MB after each: every five.
    config.eval_every = 360
    config.checkpoint.every = 360

    config.model = base.model("poster_v2", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.loss.regression = "none"

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3.5e-5
    config.optimizer.schedule = "exponential"
    config.optimizer.decay_factor = 0.98
    config.optimizer.sam_rho = 0.05
    config.optimizer.freeze = ("landmark_net/",)

    config.data.source = "tfds"
    config.data.dataset = "raf_db"
    config.data.image_size = 224
    config.data.augment = "poster"

    config.checkpoint.best_metric = "accuracy"
    return config
