"""Which tree a run measures by: the model's, the config's, the data set's."""

import dataclasses

import pytest

from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.systems import label_tree
from configs import base
from data_pipelines.hierarchies import tree
from tests.affect_jax import label_trees, tiny

CLASSES = ("happy", "anger", "disgust")
FIVE = "[coarse]\nall = ['happy', 'anger', 'disgust']\n"


@pytest.fixture
def mine(tmp_path):
    return label_trees.write(tmp_path)


def create(classes=CLASSES, has=("expression",), own="", **changes):
    return systems.create(
        tiny.one_block(system="classifier", **changes),
        class_names=classes,
        has=frozenset(has),
        class_counts=(1,) * len(classes),
        hierarchy=own,
    )


def test_the_users_tree_in_the_order_and_spelling_of_the_data(mine):
    found = create(data__hierarchy=mine).hierarchy
    assert found.name == "mine" and found.fine == CLASSES
    assert found.coarse == ("positive", "negative") and found.coarse_of == (0, 1, 1)


def test_the_models_tree_wins_over_the_datas_and_both_over_the_data_sets(mine, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(FIVE)
    config = tiny.config(data__hierarchy=str(other))
    assert label_tree.resolve(config, CLASSES, mine).name == "other"
    config.model.hierarchy = mine
    assert label_tree.resolve(config, CLASSES, "fg_emotions").name == "mine"
    config.model.hierarchy = config.data.hierarchy = ""
    assert label_tree.resolve(config, ("panic", "lust"), "fg_emotions").coarse == ("fear", "love")
    assert label_tree.resolve(config, CLASSES) is None


def test_it_is_measured_with_any_model_that_learns_classes(mine):
    system = create(data__hierarchy=mine)
    (part,) = system.extra_metrics(3)
    assert isinstance(part, HierarchyStatistics) and part.min_count == 3
    assert create().extra_metrics(1) == [] and create().hierarchy is None
    affect = create(
        has=("expression", "valence_arousal"), data__hierarchy=mine, loss__categories=False
    )
    assert affect.hierarchy is not None and affect.extra_metrics(1) == []


def test_a_tree_of_its_own_is_taken_as_it_is(mine):
    given = dataclasses.replace(tree.load(mine).for_classes(CLASSES), name="restored")
    assert create(own=given, data__hierarchy="/no/such.toml").hierarchy is given
    assert create(own=None, data__hierarchy="/no/such.toml").hierarchy is None


def test_the_tree_is_no_argument_of_the_model(mine):
    assert "hierarchy" not in create(data__hierarchy=mine).model_arguments()
    config = tiny.config(model__hierarchy=mine)
    labels = dict(class_names=CLASSES, has=frozenset({"expression"}), class_counts=(1, 1, 1))
    system = systems.create(config, **labels)
    assert system.hierarchy.name == "mine" and "hierarchy" not in system.model_arguments()


def test_refused(mine, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.data\.hierarchy = .*no fine class 'fear'"):
        create(("happy", "fear"), data__hierarchy=mine)
    with pytest.raises(ConfigError, match=r"config\.data\.hierarchy = 'no'.*no such file"):
        create(data__hierarchy="no")
    with pytest.raises(ConfigError, match=r"the tree of the data set = 'fg_emotions': .*'happy'"):
        create(own="fg_emotions")
    with pytest.raises(ConfigError, match=r"config\.data\.hierarchy.*no expression classes"):
        create((), has=("valence_arousal",), data__hierarchy=mine)
    assert create((), has=("valence_arousal",), own="fg_emotions").hierarchy is None


def test_relations_take_the_models_tree_but_not_the_datas(mine):
    relations = {"enabled": True, "hierarchy_bias": True}
    config = tiny.one_block(system="classifier", data__hierarchy=mine)
    config.model = base.model("resnet18", width=4)
    config.model.relations.update(relations)
    labels = dict(class_names=CLASSES, has=frozenset({"expression"}), class_counts=(1, 1, 1))
    with pytest.raises(ConfigError, match=r"hierarchy_bias = True needs a label tree"):
        systems.create(config, **labels)
    config.model.hierarchy = mine
    system = systems.create(config, **labels)
    assert system.relations["hierarchy"] == system.hierarchy.to_plain()
