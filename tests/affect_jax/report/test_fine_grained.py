"""Pictures of fine and coarse classes, of models whose answers are known."""

import types

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.report import fine_grained
from affect_jax.report.figures import style
from affect_jax.report.views import Choices, View
from data_pipelines.hierarchies.tree import Hierarchy, load

TREE = Hierarchy("t", ("a", "b", "c"), ("x", "y"), (0, 0, 1))
SHOWN = Choices("test", (0, 1, 2, 3), 50)
LABELS = np.array([0, 0, 1, 1, 2, 2, -1])


def view(name, guesses, labels=LABELS, tree=TREE, **outputs):
    """A model that is sure of its guesses."""
    classes = tree.fine if tree else tuple("abc")
    source = types.SimpleNamespace(describe=lambda i: f"file {i}")
    model = types.SimpleNamespace(
        class_names=classes, hierarchy=tree, path=name, source=lambda split: source
    )
    found = {
        "index": np.arange(len(labels)),
        "expression": np.asarray(labels),
        "logits": 5.0 * np.eye(len(classes))[np.asarray(guesses)],
        **outputs,
    }
    return View(name, model, found, {}, {})


def draw(name, views, shown=SHOWN):
    return fine_grained.PICTURES[name].draw(views, shown)


FIRST, SECOND = (0, 1, 0, 1, 0, 2, 0), (1, 2, 1, 1, 1, 0, 0)


def test_errors_within_coarse_classes():
    drawn = draw("coarse_errors", [view("m", FIRST), view("n", SECOND, tree=None)])
    own = drawn.numbers["models"]
    np.testing.assert_array_equal(own["m"]["errors"], [[2, 0], [1, 0]])
    np.testing.assert_array_equal(own["n"]["errors"], [[1, 1], [2, 0]])
    assert own["m"]["within"] == pytest.approx(2 / 3)
    assert own["m"]["within_by_chance"] == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert drawn.numbers["groups"] == {"x": ["a", "b"], "y": ["c"]}


def test_a_model_without_errors():
    drawn = draw("coarse_errors", [view("m", (*LABELS[:-1], 0))])
    assert np.isnan(drawn.numbers["models"]["m"]["within"])
    assert drawn.figure.axes[0].get_title(loc="left") == "0 errors"


def test_cases_of_two_models(monkeypatch):
    asked = []

    def images_of(model, split, indices):
        asked.append((split, list(indices)))
        return {index: np.zeros((8, 8, 3), np.uint8) for index in indices}

    monkeypatch.setattr(fine_grained, "images_of", images_of)
    drawn = draw("cases", [view("m", FIRST), view("n", SECOND)])
    numbers = drawn.numbers
    shown = {
        kind: {face["index"]: (face["truth"], face["answers"]) for face in numbers[kind]["shown"]}
        for kind in ("first", "second", "neither")
    }
    assert shown["first"] == {
        0: ("a (x)", {"m": ("right", "a (x)"), "n": ("within", "b (x)")}),
        5: ("c (y)", {"m": ("right", "c (y)"), "n": ("wrong", "a (x)")}),
    }
    assert shown["second"] == {2: ("b (x)", {"m": ("within", "a (x)"), "n": ("right", "b (x)")})}
    assert shown["neither"] == {
        1: ("a (x)", {"m": ("within", "b (x)"), "n": ("wrong", "c (y)")}),
        4: ("c (y)", {"m": ("wrong", "a (x)"), "n": ("wrong", "b (x)")}),
    }
    assert numbers["both_right"] == 1
    assert numbers["first"]["within"] == {"m": pytest.approx(np.nan, nan_ok=True), "n": 0.5}
    assert numbers["neither"]["within"] == {"m": 0.5, "n": 0.0}
    assert asked == [("test", [0, 5]), ("test", [2]), ("test", [1, 4])]
    # Examples that the user names are the only ones shown; all are counted.
    few = draw("cases", [view("m", FIRST), view("n", SECOND)], SHOWN._replace(indices=(4, 6)))
    assert [len(few.numbers[kind]["shown"]) for kind in shown] == [0, 0, 1]
    assert few.numbers["first"]["images"] == 2


def test_cases_without_a_tree_or_without_an_error(monkeypatch):
    blank = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(fine_grained, "images_of", lambda m, s, i: dict.fromkeys(i, blank))
    drawn = draw("cases", [view("m", FIRST, tree=None), view("n", SECOND, tree=None)])
    answers = drawn.numbers["neither"]["shown"][0]["answers"]
    assert answers == {"m": ("wrong", "b"), "n": ("wrong", "c")}
    assert "coarse" not in drawn.caption
    perfect = (*LABELS[:-1], 0)
    with pytest.raises(UserError, match="both models are right on all images"):
        draw("cases", [view("m", perfect), view("n", perfect)])


def test_the_table_of_other_classes_holds_the_models_alone():
    drawn = draw("class_table", [view("m", FIRST), view("n", SECOND)])
    numbers = drawn.numbers
    assert numbers["columns"] == ["m", "n"] and numbers["published"] == 0
    np.testing.assert_allclose(numbers["accuracy"], [[0.5, 0], [0.5, 1], [0.5, 0]])
    np.testing.assert_allclose(numbers["mean_of_classes"], [0.5, 1 / 3])
    np.testing.assert_allclose(numbers["overall_accuracy"], [0.5, 2 / 6])
    _, head, body = drawn.table
    assert head == ["coarse class", "class", "m", "n"]
    assert body[0] == ["x", "a", "50.00", "0.00"]
    assert body[-2:] == [
        ["", "mean of classes", "50.00", "33.33"],
        ["", "overall accuracy", "50.00", "33.33"],
    ]


def test_the_table_of_the_33_classes_has_the_published_columns():
    tree = load("fg_emotions")
    shuffled = tree.for_classes(tuple(np.random.default_rng(0).permutation(tree.fine).tolist()))
    labels = np.repeat(np.arange(33), 2)
    guesses = labels.copy()
    guesses[1] = 9  # one of the two images of the first class
    for known in (shuffled, None):
        own = view("m", guesses, labels, shuffled)
        own = own._replace(model=types.SimpleNamespace(**{**vars(own.model), "hierarchy": known}))
        drawn = draw("class_table", [own])
        _, head, body = drawn.table
        assert head[:3] == ["pole", "coarse class", "class"] and head[-2:] == ["RALD", "m"]
        # Ordered by coarse class; the order within one is that of the class ids.
        rows = {line[2]: line for line in body}
        assert [line[1] for line in body[:33]] == sorted(
            (tree.coarse[c] for c in tree.coarse_of), key=tree.coarse.index
        )
        assert rows["lust"][:2] == ["pleasant", "love"] and rows["lust"][11] == "96.15"
        assert rows[shuffled.fine[0]][-1] == "50.00"
        assert rows["mean of classes"][3] == "91.76" and rows["mean as printed"][3] == "91.91"
        assert rows["mean of classes"][-1] == f"{100 * 32.5 / 33:.2f}"
        assert rows["mean as printed"][-1] == rows["overall accuracy"][3] == "-"
        assert rows["overall accuracy"][-1] == f"{100 * 65 / 66:.2f}"
        assert rows["images per second"][-2:] == ["1,291", "-"]
    assert style.png(drawn.figure, dpi=20)


def test_embeddings_by_coarse_class():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    centres = np.array([[0.0, 0.0], [0.0, 3.0], [40.0, 0.0]])
    points = centres[labels] + rng.normal(size=(15, 2)) * 1e-3
    drawn = draw("coarse_embedding", [view("m", labels, labels, embedding=points)])
    own = drawn.numbers["models"]["m"]
    expected = 3 / ((40 + np.hypot(40, 3)) / 2)
    assert own["embedding"]["ratio"] == pytest.approx(expected, rel=1e-2)
    places = own["shown"]["place"]
    centres = np.stack([places[labels == c].mean(axis=0) for c in range(3)])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    ratio = apart[0, 1] / ((apart[0, 2] + apart[1, 2]) / 2)
    assert own["map"]["ratio"] == pytest.approx(ratio, rel=1e-3)
    with pytest.raises(UserError, match="no embedding"):
        draw("coarse_embedding", [view("m", labels, labels)])
    with pytest.raises(UserError, match="at least 2 classes"):
        draw("coarse_embedding", [view("m", labels, 0 * labels, embedding=points)])


def test_what_models_lack_is_said():
    def missing(name, *trees):
        models = [types.SimpleNamespace(hierarchy=tree) for tree in trees]
        return fine_grained.PICTURES[name].missing(models)

    single = Hierarchy("single", ("a", "b"), ("x", "y"), (0, 1))
    one = Hierarchy("one", ("a", "b"), ("x",), (0, 0))
    for name in ("coarse_errors", "coarse_embedding"):
        assert missing(name, None, TREE) == ""
        assert "config.model.hierarchy" in missing(name, None)
        assert missing(name, single) == "the tree single does not group its classes"
        assert missing(name, one) == "the tree one does not group its classes"
    assert missing("cases", None) == "no second model, --compare"
    assert missing("cases", None, None) == missing("class_table", None) == ""
