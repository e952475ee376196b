"""A ResNet as a configuration file, for runs in processes of their own: unlike `tiny.one_block` it
has statistics that belong to the global batch."""

from ml_collections import ConfigDict

from configs import base
from tests.affect_jax import tiny


def get_config() -> ConfigDict:
    config = tiny.one_block()
    plain = config.model
    config.model = base.model("resnet18", width=4, regression=True, mean=plain.mean, std=plain.std)
    return config
