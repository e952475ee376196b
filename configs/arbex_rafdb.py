"""ARBEx on RAF-DB: the paper's recipe at full size.

Trains: POSTER++ features, a linear layer to 128, a head of two hidden layers, 10 anchors per class
and attention. The paper starts the features (IR-50 and MobileFaceNet) from released weights and
freezes them. Paper: Wasi et al., 2023, Table 5: accuracy 0.9247. Time: it needs a GPU. Score: not
trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_rafdb.py --workdir runs/arbex_rafdb \\
              --config.data.data_dir=DATA \\
              --config.init_from=ir50.pth,mobilefacenet_model_best.pth.tar \\
              --config.optimizer.freeze="('backbone/image_net/','backbone/landmark_net/')"
You bring the two files of weights, as in `poster_v2_rafdb`. Without init_from, leave out
optimizer.freeze too: frozen networks would keep their random weights.
arbex_affwild2, arbex_jaffe, arbex_ferplus and arbex_fergdb differ in the data only.
`arbex_official_rafdb` is the model of the authors' code.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the recipe of the paper; docs/arbex.md lists what it leaves open."""
    config = base.get_config()
    config.system = "arbex"
    config.num_epochs = 1000.0
    config.batch_size = 64
    # An epoch is 7 x 500 photos, 55 steps. Validating and saving 400 MB after each would take
    # longer than the training. Every ten epochs gives about 100 checkpoints to choose from.
    config.eval_every = 550
    config.checkpoint.every = 550

    config.model = base.model("arbex", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.loss.label_smoothing = 0.11
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "exponential"
    config.optimizer.decay_factor = 0.995

    config.data.source = "tfds"
    config.data.dataset = "raf_db"
    config.data.image_size = 224
    config.data.augment = "arbex_heavy"
    config.data.augment_overrides.erase = 0.0  # the preset erases, the paper's list does not
    config.data.sampling = "refine"
    config.data.refine.per_group = 512
    config.data.refine.per_class = 500

    config.checkpoint.best_metric = "accuracy"
    return config
