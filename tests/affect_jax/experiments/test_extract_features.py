"""Features of a trained model as a file, and a probe trained on them."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax import batches, data_record, export, systems
from affect_jax import config as config_lib
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.experiments import evaluate, evaluate_run, extract_features
from affect_jax.models.preprocessing import normalise
from affect_jax.models.relations_settings import to_section
from affect_jax.runtime.parallel import Mapper
from affect_jax.training import loop, setup
from data_pipelines.sources import features
from data_pipelines.sources.make import make_sources
from tests.affect_jax import small_resnet, tiny
from tests.affect_jax.training.test_resume import free_port

SIZES = {"train": 40, "validation": 17, "test": 24}


@pytest.fixture(scope="module")
def config():
    """A transformer of one block on a few faces of mixed fine expressions, with wrong training
    labels and augmentation."""
    sizes = {f"data__synthetic__num_{split}": n for split, n in SIZES.items()}
    noise = {"data__synthetic__symmetric_noise": 0.3, "data__augment_overrides__flip": 1.0}
    noise |= {"data__synthetic__classes": "fg_emotions", "data__synthetic__ambiguity": 0.3}
    made = tiny.one_block(num_steps=2, eval_every=2, batch_size=8, **sizes, **noise)
    made.eval.flip = made.report.pictures = False
    made.report.faces = 0
    return made


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return begun(config, tmp_path_factory.mktemp("features") / "run")


def begun(config, workdir):
    """A run with a checkpoint of fresh weights, for which nothing is compiled."""
    workdir.mkdir()
    mapper, sources = Mapper(), batches.make_sources(config)
    config_lib.claim_workdir(workdir, config)
    data_record.compare(workdir, sources).begin()
    system = systems.for_source(config, sources["train"])
    with contextlib.closing(setup.open_checkpointer(config, workdir)) as checkpointer:
        parts = setup.put_together(config, workdir, mapper, sources, system, checkpointer, None)
        state = mapper.to_global(setup.initial_state(parts)[0])
        checkpointer.save(2, state, record=loop._record(parts), metrics={"loss": 1.0})
        checkpointer.wait()
    return workdir


def extracted(config, run, path, **changes):
    asked = config.copy_and_resolve_references()
    asked.update_from_flattened_dict({"eval.features": str(path), **changes})
    assert evaluate.extract(asked, run) == path
    return features.read(path)


@pytest.fixture(scope="module")
def file(config, run, tmp_path_factory):
    path = tmp_path_factory.mktemp("extracted") / "new" / "f.npz"
    return path, extracted(config, run, path)


def test_features_are_the_model_s_own_output(file, config, run):
    stored = file[1]
    loaded = evaluate_run.open_run(config, run, Mapper(devices=jax.devices()[:1]))
    call = nnx.jit(lambda model, images: model(images)["embedding"])
    for split, source in make_sources(config.data).items():
        columns = stored.splits[split]
        assert columns["features"].shape == (SIZES[split], 192)
        with batches.eval_batches(config, source) as passed:
            for batch in passed:
                images = normalise(batch["image"], config.model.mean, config.model.std)
                expected = np.asarray(call(loaded.model, images))[batch["mask"]]
                got = columns["features"][batch["index"][batch["mask"]]]
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        for i in (0, SIZES[split] - 1):
            record = source[i]
            for name in columns.keys() & record.keys():
                np.testing.assert_array_equal(columns[name][i], record[name], err_msg=name)
            assert columns["name"][i] == source.describe(i)
        names = {"expression_probs", "valence_arousal", "attributes", "group", "true_expression"}
        assert columns.keys() == names | {"features", "expression", "track", "person", "name"}
        assert columns["person"].tolist() == source.persons
        np.testing.assert_array_equal(columns["track"], source.tracks)
    train = stored.splits["train"]
    assert (train["expression"] != train["true_expression"]).any()


def test_a_file_says_where_it_comes_from(file, config, run):
    stored = file[1]
    train = make_sources(config.data)["train"]
    assert stored.class_names == train.class_names and stored.n_features == 192
    assert stored.attribute_names == train.attribute_names
    assert stored.hierarchy == "fg_emotions" and not stored.learns_votes
    about = stored.made_from
    assert about["model"] == str(run) and about["name"] == "vit_ti16" and about["checkpoint"] == 2
    assert about["output"] == "embedding" and about["data"] == {"source": "synthetic"}
    recorded = json.loads((run / "data.json").read_text())
    assert about["data_digest"] == recorded["digest"]


@pytest.mark.parametrize(
    "changes", [{"parallel.mapping": "shard_map"}, {"eval.batch_size": 24}], ids=str
)
def test_devices_and_batches_do_not_matter(changes, file, config, run, tmp_path):
    again = extracted(config, run, tmp_path / "f.npz", **changes)
    for split, columns in file[1].splits.items():
        for name, column in columns.items():
            other = again.splits[split][name]
            if name == "features":
                np.testing.assert_allclose(column, other, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(column, other)


def test_an_exported_model_gives_the_same(file, config, run, tmp_path):
    export.export(run, tmp_path / "model")
    asked = config.copy_and_resolve_references()
    asked.init_from, asked.eval.features = str(tmp_path / "model"), str(tmp_path / "f.npz")
    stored = features.read(evaluate.extract(asked, None))
    for split, columns in file[1].splits.items():
        np.testing.assert_allclose(
            stored.splits[split]["features"], columns["features"], rtol=1e-4, atol=1e-5
        )
    assert stored.made_from["model"] == str(tmp_path / "model")


def test_what_cannot_be_extracted(config, run, tmp_path):
    for path in ("f.csv", str(tmp_path)):
        asked = config.copy_and_resolve_references()
        asked.eval.features = path
        with pytest.raises(UserError, match=r"give a file name ending in \.npz"):
            evaluate.extract(asked, run)
    asked.eval.features = str(tmp_path / "f.npz")
    with pytest.raises(ConfigError, match="no --workdir is given"):
        evaluate.extract(asked, None)
    asked.data.synthetic.num_test = 0
    with pytest.raises(UserError, match=r"have changed since it began|the test split is empty"):
        evaluate.extract(asked, run)
    assert not list(tmp_path.iterdir())


class Outputs(nnx.Module):
    """A model that gives arrays of ones of the given shapes."""

    def __init__(self, **shapes):
        self.shapes = tuple(shapes.items())

    def __call__(self, images):
        return {name: images.mean() + np.ones(shape) for name, shape in dict(self.shapes).items()}


def test_features_of_the_backbone_come_before_the_embedding():
    name = extract_features.output_name
    assert name(Outputs(image_features=(1, 4), embedding=(1, 3)), 8) == "image_features"
    assert name(Outputs(image_features=(1, 4, 4, 3), embedding=(1, 3)), 8) == "embedding"
    with pytest.raises(UserError, match="no features: it gives heatmaps, logits, and one of"):
        name(Outputs(logits=(1, 4), heatmaps=(1, 2, 2, 5)), 8)


def test_features_that_are_no_numbers_name_their_image(config, run):
    source = make_sources(config.data)["test"]
    found = {"index": np.arange(3), "features": np.array([[1.0], [np.nan], [np.inf]])}
    with pytest.raises(UserError, match=r"2 feature vectors are not finite; the first is of .*e 1"):
        extract_features._columns(source, found)


def test_features_of_another_size_are_refused(file, config, run, tmp_path):
    stored = file[1]
    smaller = {
        split: {**columns, "features": columns["features"][:, :8]}
        for split, columns in stored.splits.items()
    }
    np.savez(tmp_path / "f.npz", **dataclasses.replace(stored, splits=smaller).to_arrays())
    asked = config.copy_and_resolve_references()
    asked.data.source, asked.data.features = "features", str(tmp_path / "f.npz")
    with pytest.raises(ConfigError, match="takes images, and the data are vectors of 8 features"):
        evaluate.evaluate(asked, run)


@pytest.mark.slow
def test_two_processes_extract_what_one_does(tmp_path):
    config = small_resnet.get_config()
    changes = {f"data__synthetic__num_{split}": n for split, n in SIZES.items()}
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    run = begun(config, tmp_path / "run")
    one = extracted(config, run, tmp_path / "one.npz")
    port = free_port()
    processes = [
        tiny.start(
            run,
            "--mode=eval",
            f"--config.eval.features={tmp_path / 'two.npz'}",
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={rank}",
            file="tests/affect_jax/small_resnet.py",
            **changes,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    two = features.read(tmp_path / "two.npz")
    for split, columns in one.splits.items():
        assert columns["features"].shape == (SIZES[split], 32)  # 8 times the width
        for name, column in columns.items():
            other = two.splits[split][name]
            if name == "features":
                np.testing.assert_allclose(column, other, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(column, other)


def test_a_model_with_a_tree_that_compares_the_batch_gives_its_features(config, tmp_path):
    asked = config.copy_and_resolve_references()
    asked.system, asked.model.regression = "rald", False
    asked.model.relations = to_section({"context": "batch", "bank_size": 4})
    asked.model.hierarchy = "fg_emotions"
    run = begun(asked, tmp_path / "run")
    asked.model.hierarchy = ""  # the run knows its tree
    stored = extracted(asked, run, tmp_path / "f.npz")
    assert stored.hierarchy == "fg_emotions"
    assert stored.splits["test"]["features"].shape == (SIZES["test"], 192)
