"""ARBEx on RAF-DB as the authors' code has it, which differs from their paper.

Trains: the network of `arbex_rafdb` with a head of 384, 192 and 96 on 768 features, one anchor per
class, attention across the batch, and a correction that is ramped in over the whole run. The losses
are the code's: a class-weighted likelihood without label smoothing. Batches have 256 photos in
shuffled order, resized to 246, cropped and mirrored, for 100,000 steps. The learning rate is halved
when the loss has not fallen for 100 steps. Use this config only to compare with that code:
* The code validates on the primary distribution, without correction: compare `accuracy_primary`.
* The result of a photo depends on the other photos of its batch.
* The anchor loss has no lower bound. docs/arbex.md has every difference.
Paper: Wasi et al., 2023. Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_official_rafdb.py \\
              --workdir runs/arbex_official --config.data.data_dir=DATA \\
              --config.init_from=ir50.pth,mobilefacenet_model_best.pth.tar \\
              --config.optimizer.freeze="('backbone/image_net/','backbone/landmark_net/')"
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb, base


def get_config() -> ConfigDict:
    """Return the recipe of the authors' code, with the model `arbex_official`."""
    config = arbex_rafdb.get_config()
    config.num_steps = 100_000  # the correction is ramped in over these
    config.batch_size = 256
    config.eval_every = 500
    config.checkpoint.every = 500
    config.model = base.model("arbex_official", mean=config.model.mean, std=config.model.std)
    config.loss.label_smoothing = 0.0
    config.loss.class_weights = "balanced"
    config.loss.reliability.variant = "official"
    config.loss.reliability.lambda_anchor = 1.0
    config.loss.reliability.lambda_center = 1.0

    config.optimizer.schedule = "plateau"
    config.optimizer.decay_factor = 0.5
    config.optimizer.plateau_patience = 100

    # The code builds a refinement sampler and does not use it.
    config.data.sampling = "shuffle"
    config.data.augment = "none"
    config.data.augment_overrides.margin = 22 / 224  # a crop of 224 from 246
    config.data.augment_overrides.flip = 0.5
    config.checkpoint.best_metric = "accuracy_primary"
    return config
