"""POSTER++ on RAF-DB: the published recipe at full size.

Trains: 7 expressions, with sharpness-aware minimisation. Frozen landmark features (MobileFaceNet)
attend to image features (IR-50). You bring the released weights of both networks: IR-50 of a face
recogniser, MobileFaceNet of a landmark detector.
Paper: Mao et al., "POSTER++", 2023; accuracy 0.9221. Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/poster_v2_rafdb.py --workdir runs/poster_v2 \\
              --config.data.data_dir=DATA \\
              --config.init_from=ir50.pth,mobilefacenet_model_best.pth.tar
Without init_from, train the landmark network too, with --config.optimizer.freeze="()". Otherwise it
would keep its random weights.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the published recipe: 200 epochs of batches of 144."""
    config = base.get_config()
    config.system = "classifier"
    config.num_epochs = 200.0
    config.batch_size = 144
    # Validate every five epochs: an epoch is 72 steps, and a checkpoint has 400 MB.
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
