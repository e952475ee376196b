"""ViT-B/16 + SE (squeeze and excitation) on FER-2013: stage 1, from ImageNet.

Trains: 7 expressions on 48-pixel grey faces, enlarged to 224. Stage 2 (vit_se_ckplus,
vit_se_jaffe, vit_se_rafdb, vit_se_sfew) starts from this run.
Paper: Aouayeb et al., 2021; learning rates and lengths are this project's, see docs/vit_se.md.
Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset fer2013 --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/vit_se_fer2013.py \\
              --workdir runs/vit_se_stage1 --config.data.data_dir=DATA \\
              --config.init_from=WEIGHTS.npz
WEIGHTS is a file of the original JAX code, timm or Hugging Face. The paper starts from a network
trained on JFT-300M and fine-tuned on ImageNet-1K, whose weights were never released. Available
files were trained on ImageNet-21k or ImageNet-1K, which is a difference from the paper.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the recipe of stage 1, which stage 2 builds on."""
    config = base.get_config()
    config.system = "vit_se"
    config.batch_size = 64
    config.num_epochs = 10.0
    # Validate once per epoch of 449 steps. Save only then: a checkpoint has 1.4 GB, with the copies
    # of Adam and of the moving average.
    config.checkpoint.every = 449

    config.model = base.model(
        "vit_b16",  # or vit_ti16, vit_s16, vit_l16
        se=True,
        drop_path=0.1,
        dtype="bfloat16",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    config.loss.label_smoothing = 0.1
    config.loss.class_weights = "sqrt_balanced"
    config.mixing.mixup_alpha = 0.2
    config.mixing.cutmix_alpha = 1.0
    config.mixing.probability = 0.5

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.layer_decay = 0.75
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.ema_decay = 0.999

    config.data.source = "tfds"
    config.data.dataset = "fer2013"
    config.data.image_size = 224
    config.data.augment = "vit"
    config.data.crop = "whole"

    config.checkpoint.best_metric = "accuracy"
    return config
