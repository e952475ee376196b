import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.state import take_apart
from affect_jax.weights import model_dir
from affect_jax.weights.init_from import init_from, initialise_from, merge

TRUNK = {"width": 16, "depth": 1, "stacks": 1, "landmarks": 3}
EMOFAN = {**TRUNK, "emotion_blocks": 1}


def arrays(model):
    _, params, stats = take_apart(model)
    return {**params, **{f"stats:{path}": value for path, value in stats.items()}}


def with_statistics(model, seed):
    """Moves the statistics, as training does."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model, nnx.BatchStat)
    nnx.update(model, jax.tree.map(lambda x: rng.uniform(0.5, 2, x.shape).astype(x.dtype), state))
    return model


@nnx.jit
def heatmaps(model, images):
    return model(images)["heatmaps"]


@nnx.jit
def features(model, images):
    return model(images)["features"][-1]


def save(path, name, arguments, seed=1):
    model = with_statistics(models.create(name, **arguments, seed=seed), seed)
    model_dir.save_model(
        path, name, arguments, model, preprocessing=model_dir.Preprocessing(image_size=16)
    )
    return arrays(model)


def test_a_fan_directory_fills_the_trunk_of_an_emofan(tmp_path):
    source = save(tmp_path / "fan", "fan", {**TRUNK, "pool": "max"})
    model = models.create("emofan", **EMOFAN)
    before = arrays(model)
    report = init_from(model, tmp_path / "fan")
    after = arrays(model)
    for path, value in after.items():
        key = path.replace("fan/", "", 1)
        wanted = source[key] if "fan/" in path else before[path]
        np.testing.assert_array_equal(value, wanted)
    assert len(report.loaded) == len(source)
    assert not report.skipped
    assert report.missing
    assert all(path.startswith("emotion/") for path in report.missing)
    assert not model.emotion.norm.use_running_average  # the mode is the caller's


def test_a_head_for_other_classes_keeps_its_fresh_values(tmp_path):
    source = save(tmp_path / "model", "resnet18", {"width": 4, "n_expression": 8})
    model = models.create("resnet18", width=4, n_expression=5)
    fresh = arrays(model)
    report = init_from(model, tmp_path / "model")
    assert set(report.skipped) == {"head/kernel", "head/bias"} == set(report.missing)
    assert "(32, 8) in the source, (32, 5) in the model" in str(report)
    for path, value in arrays(model).items():
        wanted = fresh[path] if path.startswith("head/") else source[path]
        np.testing.assert_array_equal(value, wanted)


def test_differences_are_errors_unless_allowed_by_name(tmp_path):
    save(tmp_path / "fan", "fan", {**TRUNK, "stacks": 2, "pool": "max"})
    model = models.create("emofan", **EMOFAN)
    before = arrays(model)
    message = r"(?s)built with stacks=2, the model with stacks=1.*unexpected:.*feature_bridge/"
    with pytest.raises(UserError, match=message):
        init_from(model, tmp_path / "fan")
    for path, value in arrays(model).items():
        np.testing.assert_array_equal(value, before[path])
    bridges = ["fan/stacks/0/feature_bridge", "fan/stacks/0/heatmap_bridge"]
    report = init_from(model, tmp_path / "fan", allow=[*bridges, "fan/stacks/1"])
    assert report.skipped["fan/stacks/0/heatmap_bridge/kernel"] == "not in the model"
    assert "fan/stem_conv/kernel" in report.loaded


def test_the_pooling_of_the_trunk_must_agree():
    source = models.create("fan", **TRUNK, pool="avg")
    model = models.create("emofan", **EMOFAN)
    with pytest.raises(UserError, match="built with pool='avg', the model with pool='max'"):
        init_from(model, source)
    assert init_from(model, source, allow=["pool"]).loaded


@pytest.mark.parametrize("setting", [{"width": 32}, {"depth": 2}, {"stacks": 2}])
def test_another_size_of_the_trunk_is_named(setting):
    name, value = next(iter(setting.items()))
    source = models.create("fan", **TRUNK | setting, pool="max")
    message = (
        f"the given model \\(built with {name}={value}, the model with {name}={TRUNK[name]}\\)"
    )
    with pytest.raises(UserError, match=message):
        init_from(models.create("emofan", **EMOFAN), source)


def test_the_trunk_gives_the_heatmaps_of_the_detector_it_came_from():
    source = with_statistics(models.create("fan", **TRUNK, pool="max", seed=3), 0)
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    source.eval()
    model = models.create("emofan", **EMOFAN)
    init_from(model, source)
    model.eval()
    np.testing.assert_array_equal(heatmaps(model, images), heatmaps(source, images))
    np.testing.assert_array_equal(features(model.fan, images), features(source, images))


def test_a_smaller_source_of_the_same_class_is_an_error():
    source = models.create("fan", **TRUNK)
    model = models.create("fan", **{**TRUNK, "stacks": 2})
    with pytest.raises(UserError, match=r"\d+ missing:\n  stacks/0/"):
        init_from(model, source)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        init_from(models.create("fan", **TRUNK), tmp_path / "weights.npz")


def test_unrelated_models_are_refused():
    with pytest.raises(UserError, match="is a FAN; it fits neither a ResNet nor one of its parts"):
        init_from(models.create("resnet18", width=4), models.create("fan", **TRUNK))


POSTER = {"input_size": 16, "image_width": 4, "image_stages": (1, 1, 1), "landmark_width": 2,
          "landmark_stages": (0, 0, 0), "dims": (2, 4, 8), "windows": (4, 2, 1),
          "heads": (1, 2, 2), "embedding": 16, "vit_depth": 1}  # fmt: skip


def test_parts_at_any_depth_start_from_models_of_their_own(tmp_path):
    sizes = {"width": 4, "stage_sizes": (1, 1, 1), "input_size": 16}
    image = save(tmp_path / "image", "ir50", sizes)
    sizes = {"width": 2, "stage_sizes": (0, 0, 0), "input_size": 16}
    landmark = save(tmp_path / "landmark", "mobilefacenet", sizes)
    model = models.create("arbex", backbone=POSTER)
    fresh = arrays(model)
    paths = f"{tmp_path / 'image'}, {tmp_path / 'landmark'}"
    initialise_from(model, paths, (), mapper=None)
    for path, value in arrays(model).items():
        wanted = fresh[path]
        for part, source in (("image_net", image), ("landmark_net", landmark)):
            key = path.replace(f"backbone/{part}/", "")
            wanted = source[key] if key != path else wanted
        np.testing.assert_array_equal(value, wanted)


def test_a_classifier_gives_its_features_and_keeps_its_last_layer():
    source = models.create("poster_v2", **POSTER, n_expression=5, seed=1)
    model = models.create("arbex", backbone=POSTER)
    report = init_from(model, source)
    assert set(report.skipped) == {"backbone/head/kernel", "backbone/head/bias"}
    given = arrays(source)
    for path, value in arrays(model.backbone).items():
        np.testing.assert_array_equal(value, given[path])


def test_counters_of_the_source_stay_where_they_are():
    own = {"params": {"w": np.zeros(2)}, "stats": {"steps": np.zeros(()), "mean": np.zeros(2)}}
    given = {"params": {"w": np.ones(2)}, "stats": {"steps": np.array(450.0), "mean": np.ones(2)}}
    for source in (given, {**given, "stats": {"mean": np.ones(2)}}):
        merged, report = merge(own, source, counters={"steps"})
        assert merged["stats"]["steps"] == 0 and merged["stats"]["mean"][0] == 1
        assert report.missing == ["steps"]


RELATED = {"bank_size": 3, "label_features": 5, "heads": 2, "head_features": 4}
BANK = [f"stats:relations/bank_{name}" for name in ("features", "labels", "index")]
VECTORS = "stats:relations/label_vectors"
TREE = {
    "name": "t",
    "fine": ["anger", "happy"],
    "coarse": ["bad", "good"],
    "coarse_of": [0, 1],
    "poles": [],
    "pole_of": [],
}


def related(n_expression=2, seed=0, factor=1.0, **settings):
    """A model with relations whose label vectors are the stand-in times `factor`."""
    settings = RELATED | settings
    model = models.create(
        "resnet18", width=4, n_expression=n_expression, relations=settings, seed=seed
    )
    part = model.relations
    part.label_vectors[...] = factor * part.label_vectors[...]
    if factor != 1:  # a source has been trained
        part.bank_features[...] = part.bank_features[...] + 7
        part.bank_labels[...] = part.bank_labels[...] + 1
        part.bank_index[...] = part.bank_index[...] + 9
    return model


@pytest.mark.parametrize(
    ("classes", "source_classes", "given", "reason"),
    [
        (("angry", "happy"), ("anger", "joy"), {}, None),
        (("angry", "happy"), ("happy", "anger"), {}, "made for happy, anger"),
        (("angry", "happy"), ("fear", "sad"), {}, "made for fear, sad"),
        (("angry", "happy"), (), {}, "classes that are not known"),
        ((), ("anger", "happy"), {}, "made for anger, happy"),
        (("anger", "happy"), ("anger", "happy"), {"label_features": 6}, None),
    ],
)
def test_label_vectors_are_those_of_the_same_classes(classes, source_classes, given, reason):
    source, model = related(seed=1, factor=3.0), related(**given)
    fresh, theirs = arrays(model), arrays(source)
    allow = ["relations"] if given else []
    report = init_from(model, source, classes=classes, source_classes=source_classes, allow=allow)
    loaded = arrays(model)
    taken = reason is None and not given
    np.testing.assert_array_equal(loaded[VECTORS], (theirs if taken else fresh)[VECTORS])
    said = report.skipped.get("relations/label_vectors", "")
    assert (said == "") if taken else (reason or "in the source") in said
    # The bank holds images of another run.
    for name in BANK:
        np.testing.assert_array_equal(loaded[name], fresh[name])
        assert (loaded[name] != theirs[name]).any()
    if not given:
        name = "relations/images/attention/query/kernel"
        np.testing.assert_array_equal(loaded[name], theirs[name])


def test_label_vectors_of_another_tree_stay_where_they_are():
    names = ("anger", "happy")
    for coarse_of, taken in (([0, 1], True), ([1, 0], False)):
        tree = {**TREE, "name": "u", "coarse_of": coarse_of}
        model, source = related(hierarchy=TREE), related(hierarchy=tree, factor=2.0)
        fresh, theirs = arrays(model)[VECTORS], arrays(source)[VECTORS]
        report = init_from(model, source, classes=names, source_classes=names)
        np.testing.assert_array_equal(arrays(model)[VECTORS], theirs if taken else fresh)
        assert ("relations/label_vectors" in report.skipped) is not taken
        assert taken or report.skipped["relations/label_vectors"] == "made for another label tree"


def test_a_bank_of_another_size_does_not_matter(tmp_path):
    source = related(factor=2.0, bank_size=5)
    model_dir.save_model(
        tmp_path / "m",
        "resnet18",
        {"width": 4, "n_expression": 2, "relations": {**RELATED, "bank_size": 5}},
        source,
        preprocessing=model_dir.Preprocessing(image_size=16),
        class_names=("anger", "happy"),
    )
    model = related()
    init_from(model, tmp_path / "m", classes=("anger", "happy"))
    np.testing.assert_array_equal(arrays(model)[BANK[1]], [-1, -1, -1])
    np.testing.assert_array_equal(arrays(model)[VECTORS], arrays(source)[VECTORS])


def test_a_converted_backbone_need_not_have_relations(tmp_path):
    plain = models.create("resnet18", width=4, n_expression=2, seed=5)
    options = {"preprocessing": model_dir.Preprocessing(image_size=16)}
    arguments = {"width": 4, "n_expression": 2}
    own = tmp_path / "own"
    model_dir.save_model(own, "resnet18", arguments, plain, **options)
    with pytest.raises(UserError, match=r"missing:\n.*relations/"):
        init_from(related(), own)
    released = tmp_path / "released"
    provenance = {"source_sha256": "0"}
    model_dir.save_model(released, "resnet18", arguments, plain, provenance=provenance, **options)
    model = related()
    fresh = arrays(model)
    report = init_from(model, released)
    assert "relations/images/attention/query/kernel" in report.missing
    for path, value in arrays(model).items():
        is_fresh = "relations/" in path or path.startswith("head/")
        np.testing.assert_array_equal(value, (fresh if is_fresh else arrays(plain))[path])


@pytest.mark.parametrize(("name", "value"), [("residual", True), ("scale", 2.0)])
def test_relations_that_compute_something_else_are_refused(name, value):
    """The arrays fit, so that nothing else would tell."""
    own, source = related(**{name: value}), related(seed=1)
    with pytest.raises(UserError, match=rf"relations\.{name} = .*config\.model\.relations"):
        init_from(own, source)
    init_from(own, source, allow=["relations"])
