import pytest

import affect_jax
from tests.affect_jax.inference import media


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny EmoFAN with random weights, 3 classes and 68 landmarks."""
    return media.save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_model):
    return affect_jax.load(tiny_model)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    return media.write_photos(tmp_path_factory.mktemp("photos"))
