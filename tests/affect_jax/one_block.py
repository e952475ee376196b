"""`tiny.one_block` as a configuration file, for runs in processes of their own."""

from ml_collections import ConfigDict

from tests.affect_jax import tiny


def get_config() -> ConfigDict:
    return tiny.one_block()
