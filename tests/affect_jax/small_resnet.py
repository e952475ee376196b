"""A ResNet as a configuration file, for runs in processes of their own: unlike `tiny.one_block` it
has statistics that belong to the global batch."""

from ml_collections import ConfigDict

from tests.affect_jax import tiny


def get_config() -> ConfigDict:
    config = tiny.one_block()
    del config.model.depth
    config.model.name, config.model.width = "resnet18", 4
    return config
