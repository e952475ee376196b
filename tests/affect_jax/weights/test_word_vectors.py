"""Label vectors from word vectors: forms of names, missing words, what a run records."""

import json
import logging

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.models.label_vectors import stand_in
from affect_jax.weights import word_vector_files, word_vectors
from data_pipelines.hierarchies.tree import Hierarchy

TREE = Hierarchy("small", ("worry", "anger", "panic"), ("anger", "fear"), (1, 0, 1))


def write(path, **words):
    """Write a GloVe file of two features."""
    path.write_text("".join(f"{word} {x} {y}\n" for word, (x, y) in words.items()))
    return str(path)


def look_up(path, *names):
    return word_vectors.read_vectors(word_vector_files.inspect(path), names)


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (("HAPPY", "Happy", "happy", "hAppy"), "hAppy"),
        (("HAPPY", "Happy", "happy"), "happy"),
        (("HAPPY", "Happy"), "Happy"),
        (("HAPPY",), "HAPPY"),
    ],
)
def test_the_given_case_comes_first(tmp_path, present, chosen):
    words = {word: (place + 1, 1) for place, word in enumerate(present)}
    write(tmp_path / "v", **words)
    found = look_up(tmp_path / "v", "hAppy")["hAppy"]
    assert found.words == (chosen,)
    np.testing.assert_array_equal(found.vector, words[chosen])


@pytest.mark.parametrize("name", ["awe struck", "awe_struck", "awe-struck", " awe  struck "])
def test_a_phrase_is_one_word_if_the_file_has_it(tmp_path, name):
    parts = {"awe": (1, 5), "struck": (3, 1)}
    write(tmp_path / "parts", **parts)
    found = look_up(tmp_path / "parts", name)[name]
    assert found.words == ("awe", "struck")
    np.testing.assert_array_equal(found.vector, [2, 3])
    write(tmp_path / "title", **parts, Awe_Struck=(7, 7))
    assert look_up(tmp_path / "title", name)[name].words == ("Awe_Struck",)
    write(tmp_path / "hyphen", **parts, **{"awe-struck": (7, 7)})
    assert look_up(tmp_path / "hyphen", name)[name].words == ("awe-struck",)


def test_reading_stops_at_the_last_best_form(tmp_path):
    path = tmp_path / "v"
    write(path, Fear=(1, 1), fear=(2, 1), anger=(3, 1))
    path.write_bytes(path.read_bytes() + b"damaged")
    found = look_up(path, "fear", "anger")
    np.testing.assert_array_equal([e.vector for e in found.values()], [[2, 1], [3, 1]])
    with pytest.raises(UserError, match="line 4 has fewer than 2 numbers"):
        look_up(path, "Anger")  # `anger` would do, but the better form might follow


def test_label_vectors_are_classes_then_means(tmp_path):
    path = write(tmp_path / "words.txt", worry=(1, 0), Anger=(5, 5), panic=(0, 3))
    array, facts = word_vectors.resolve(path, TREE, TREE.fine, 2)
    np.testing.assert_array_equal(array, [[1, 0], [5, 5], [0, 3], [5, 5], [0.5, 1.5]])
    assert array.dtype == np.float32
    assert json.loads(json.dumps(facts)) == facts
    assert facts["words"] == {"worry": ["worry"], "anger": ["Anger"], "panic": ["panic"]}
    assert (facts["kind"], facts["name"], facts["form"]) == ("file", "words.txt", "GloVe text")
    assert (facts["bytes"], facts["filled"], facts["licence"]) == (30, [], "")
    assert facts["summary"] == "words.txt (GloVe text, 2 features)"
    flat, _ = word_vectors.resolve(path, None, ("panic", "worry"), 2)
    np.testing.assert_array_equal(flat, [[0, 3], [1, 0]])


def test_without_vectors_the_stand_in_is_used_and_said(caplog):
    with caplog.at_level(logging.INFO):
        array, facts = word_vectors.resolve("", TREE, TREE.fine, 20, seed=3)
    np.testing.assert_array_equal(array, stand_in(TREE, TREE.fine, length=20, seed=3))
    assert facts["kind"] == "stand_in" and facts["seed"] == 3
    said = "stand-in, no word vectors (similar along the hierarchy; drawn from seed 3)"
    assert facts["summary"] == said and said in caplog.text
    other = word_vectors.resolve("", TREE, TREE.fine, 20, seed=4)[1]
    assert len(facts["sha256"]) == 64 and facts["sha256"] != other["sha256"]
    assert "without a hierarchy" in word_vectors.resolve("", None, ("a",), 20)[1]["summary"]


def test_all_missing_words_are_named_at_once(tmp_path):
    path = write(tmp_path / "few.txt", fear=(1, 2), struck=(1, 1))
    with pytest.raises(UserError) as caught:
        word_vectors.resolve(path, None, ("fear", "enthrall", "awe struck", "lust"), 2)
    assert str(caught.value) == (
        "few.txt has no vector for 'enthrall', 'awe' (of 'awe struck'), 'lust'; name vectors that "
        "have them, or fill these classes with stand-in vectors: "
        "--config.model.relations.missing_words=stand_in"
    )


def test_stand_ins_fill_gaps_at_the_length_of_the_others(tmp_path, caplog):
    path = write(tmp_path / "few.txt", worry=(0, 3), anger=(5, 0))
    with caplog.at_level(logging.INFO):
        array, facts = word_vectors.resolve(path, TREE, TREE.fine, 2, seed=1, missing="stand_in")
    expected = 4 * stand_in(TREE, TREE.fine, length=2, seed=1)[2]
    np.testing.assert_allclose(array[2], expected, rtol=1e-6)
    np.testing.assert_allclose(array[4], (array[0] + expected) / 2, rtol=1e-6)
    assert facts["filled"] == ["panic"] and "stand-in label vectors for panic" in caplog.text
    with pytest.raises(UserError, match=r"no vector for 'joy', which are all classes"):
        word_vectors.resolve(path, None, ("joy",), 2, missing="stand_in")


def test_another_width_is_refused(tmp_path):
    path = write(tmp_path / "small.txt", worry=(0, 3))
    with pytest.raises(
        UserError, match=r"small.txt has vectors of 2 features, but .*label_features is 300; set"
    ):
        word_vectors.resolve(path, None, ("worry",), 300)


def test_wrong_calls_are_refused(tmp_path):
    with pytest.raises(ValueError, match="missing must be one of error, stand_in, got 'skip'"):
        word_vectors.resolve("", None, ("worry",), 2, missing="skip")
    with pytest.raises(ValueError, match="the tree is over worry"):
        word_vectors.resolve("", TREE, ("panic", "worry", "anger"), 2)
    with pytest.raises(UserError, match="does not exist"):
        word_vectors.resolve(str(tmp_path / "no.bin"), TREE, TREE.fine, 2)
