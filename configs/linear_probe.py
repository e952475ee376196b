"""A linear head on stored features: a linear probe of the network that made them.

Trains: expressions, by multinomial logistic regression. The features are made before by
python -m affect_jax.main --mode=eval --config CONFIG --workdir RUN --config.eval.features=F.npz
Paper: none. Time: 10 seconds on 2 CPU cores, most of them for imports and compiling. Score: depends
on the features.
Command: python -m affect_jax.main --config configs/linear_probe.py --workdir runs/probe \
             --config.data.features=F.npz
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return a linear layer on the features, and AdamW with a cosine schedule."""
    config = base.get_config()
    config.system = "classifier"
    config.model = base.model("features")
    config.batch_size = 128
    config.num_steps = 300
    config.log_every = 50
    config.eval_every = 100
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 1e-2
    config.data.source = "features"
    config.checkpoint.every = 100
    config.report.faces = 0
    return config
