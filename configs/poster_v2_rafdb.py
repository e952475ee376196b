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
    """Adam at 3.5e-5, times 0.98 every epoch, 200 epochs of batches of 144."""
    config = base.get_config()
    config.system = "classifier"
    config.num_epochs = 200.0
    config.batch_size = 144

    config.model = ConfigDict(
        dict(
            name="poster_v2",
            regression=False,
            input_size=112,  # what both networks see; a multiple of 16
            image_width=64,
            image_stages=(3, 4, 14),
            landmark_width=64,
            landmark_stages=(4, 6, 2),
            dims=(64, 128, 256),  # of the cross-attention at 1/4, 1/8 and 1/16 of input_size
            windows=(28, 14, 7),
            heads=(2, 4, 8),
            embedding=768,
            vit_depth=2,
            vit_heads=8,
            layer_scale=1e-5,  # where the factors of the cross-attention start
            drop_path=0.25,  # stochastic depth of the third scale
            dtype="float32",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
    )
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
    config.checkpoint.best_mode = "max"
    return config
