"""ARBEx on RAF-DB as the authors' code has it, which differs from their paper.

Trains: the recipe of `arbex_rafdb` with a head of 384, 192 and 96 on 768 features, one anchor a
class, attention across the batch, a blend that is ramped in over the whole run, and the code's
losses. A photo's result then depends on the others of its batch, and the anchor loss has no lower
bound; docs/arbex.md has every difference. For comparison with that code.
Paper: Wasi et al., 2023. Time: meant for a GPU or more. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/arbex_official_rafdb.py \\
              --workdir runs/arbex_official --config.data.data_dir=DATA \\
              --config.init_from=ir50.pth,mobilefacenet_model_best.pth.tar \\
              --config.optimizer.freeze="('backbone/image_net/','backbone/landmark_net/')"
"""

from ml_collections import ConfigDict

from configs import arbex_rafdb, base


def get_config() -> ConfigDict:
    """The settings are those of the model `arbex_official`."""
    config = arbex_rafdb.get_config()
    # 1000 epochs of 7 x 500 photos in batches of 64, in steps: over these the blend is ramped in.
    config.num_steps = 54_688
    config.model.name = "arbex_official"
    config.model.reduction = 0
    config.model.hidden = (384, 192, 96)
    config.model.reliability = base.reliability(
        normalise=False, anchors=1, scope="batch", heads=1, correction="trust"
    )
    config.loss.reliability.variant = "official"
    config.loss.reliability.lambda_anchor = 1.0
    config.loss.reliability.lambda_center = 1.0
    return config
