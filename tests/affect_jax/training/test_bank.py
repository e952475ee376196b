"""The bank of a run: which images, whose features, and what resumes with it."""

import json
import logging
import pickle

import jax
import numpy as np
import pytest

import affect_jax
from affect_jax import batches as data_lib
from affect_jax import export, runtime
from affect_jax.config import ConfigError
from affect_jax.evaluation import contexts
from affect_jax.evaluation.evaluator import Evaluator
from affect_jax.experiments import evaluate, train_run
from affect_jax.models.relations import BANK_FEATURES, BANK_INDEX, BANK_LABELS
from affect_jax.models.state import take_apart
from affect_jax.report import model_runner
from affect_jax.report.run import read_run
from affect_jax.runtime.parallel import MAPPINGS, Mapper
from affect_jax.training import bank, loop
from affect_jax.training.bank import BankImages
from affect_jax.training.stopping import StopSignals
from affect_jax.weights import load_run
from data_pipelines.schema import DecodeError
from data_pipelines.sources.cache import DataCache
from tests.affect_jax import related, tiny
from tests.affect_jax.training.test_resume import finish, free_port

SIZE = related.SETTINGS["bank_size"]
NAMES = (BANK_FEATURES, BANK_LABELS, BANK_INDEX)


class Damaged:
    """A source of which some images cannot be read, and some have no label."""

    def __init__(self, base, damaged=(), unlabelled=()):
        self._base, self._damaged = base, frozenset(damaged)
        self.labels = np.array(base.labels)
        self.labels[list(unlabelled)] = -1

    def __getattr__(self, name):
        return getattr(self._base, name)

    def __len__(self):
        return len(self._base)

    def __getitem__(self, i):
        if i in self._damaged:
            raise DecodeError("made to fail")
        return self._base[i]


@pytest.fixture(scope="module")
def cache():
    return DataCache()


@pytest.fixture(scope="module")
def train(cache):
    return data_lib.make_sources(related.config(), cache)["train"]


def test_the_bank_holds_readable_labelled_images_of_every_class(train):
    config = related.config(seed=5)
    whole = BankImages.read(config, train, 16)
    assert len(set(whole.index.tolist())) == 16
    np.testing.assert_array_equal(whole.labels, train.labels[whole.index])
    np.testing.assert_array_equal(np.bincount(whole.labels, minlength=8), [2] * 8)
    damaged, unlabelled = whole.index[[3, 9]].tolist(), whole.index[:1].tolist()
    images = BankImages.read(config, Damaged(train, damaged, unlabelled), 16)
    assert not {*damaged, *unlabelled} & set(images.index.tolist())
    # Each is replaced by another of its class.
    np.testing.assert_array_equal(np.bincount(images.labels, minlength=8), [2] * 8)
    assert BankImages.read(related.config(seed=6), train, 16).index.tolist() != whole.index.tolist()


def test_the_bank_sees_images_as_evaluation_does(train):
    config = related.config()
    images = BankImages.read(config, train, SIZE)
    with data_lib.eval_batches(config, train) as batches:
        expected = {
            int(i): image
            for batch in batches
            for i, image in zip(batch["index"], batch["image"], strict=True)
        }
    (batch,) = images.batches  # one batch of sixteen
    assert batch["mask"].sum() == SIZE
    for place, index in enumerate(images.index.tolist()):
        np.testing.assert_array_equal(batch["image"][place], expected[index])


def test_a_small_training_split_gives_what_it_has(train, caplog):
    few = Damaged(train, unlabelled=range(5, len(train)))
    system = related.make_system()
    evaluator = Evaluator(system, Mapper(), take_apart(related.make_model(system))[0])
    images = bank.for_run(related.config(), few, evaluator)
    assert sorted(images.index.tolist()) == [0, 1, 2, 3, 4]
    assert "bank_size = 7, but the training split has 5" in caplog.text
    with pytest.raises(ConfigError, match="a bank of 6 images, but the training split has 5"):
        bank.for_run(related.config(eval__bank_sizes=(2, 6)), few, evaluator)
    with pytest.raises(ConfigError, match="none of the training split can be read"):
        BankImages.read(related.config(), Damaged(train, range(64)), 4)


def test_models_without_a_bank_read_nothing(caplog):
    caplog.set_level(logging.INFO)
    system = related.make_system(itrr=False, nnldl=False, lgifo=True)
    evaluator = Evaluator(system, Mapper(), None)
    config = related.config(eval__bank_sizes=(4,))
    assert bank.for_run(config, None, evaluator) is None
    assert "bank_sizes has no effect" in caplog.text
    state = {"stats": {}}
    assert bank.refreshed(state, None, evaluator, Mapper()) is state
    assert bank.of_sizes((4,), state, evaluator, config, None) == {}


def made_up(count=5):
    """Bank images of noise, for the model of `related`."""
    images, labels = related.make_images(count), np.arange(count, dtype=np.int32) % 4
    return BankImages(10 * np.arange(count), labels, related.make_batches(images, labels, 8))


def state_of(model, mapper, averaged=None):
    _, params, stats = take_apart(model)
    state = {"params": params, "stats": stats}
    if averaged is not None:
        state["ema"] = {"params": averaged, "stats": stats}
    return mapper.replicate(state)


@pytest.mark.parametrize(("devices", "mapping"), [(1, "pmap"), (8, "pmap"), (8, "shard_map")])
def test_features_are_those_of_the_weights_that_evaluation_uses(devices, mapping):
    mapper = Mapper(mapping, jax.devices()[:devices])
    system = related.make_system()
    model = related.make_model(system)
    blueprint, params, _ = take_apart(model)
    averaged = {path: 2 * value for path, value in params.items()}
    evaluator, images = Evaluator(system, mapper, blueprint), made_up()
    flat = images.batches[0]["image"][:5].reshape(5, -1) / np.float32(255)
    features = flat @ np.asarray(params["embed/kernel"]) + np.asarray(params["embed/bias"])
    for ema, factor in ((None, 1), (averaged, 2)):
        before = state_of(model, mapper, ema)
        after = bank.refreshed(before, images, evaluator, mapper)
        for stats in [part["stats"] for part in (after, after.get("ema", after))]:
            found = [np.asarray(stats[name].addressable_data(0)) for name in NAMES]
            np.testing.assert_allclose(found[0][:5], factor * features, rtol=1e-5, atol=1e-6)
            assert not found[0][5:].any()
            np.testing.assert_array_equal(found[1], [0, 1, 2, 3, 0, -1, -1])
            np.testing.assert_array_equal(found[2], [0, 10, 20, 30, 40, -1, -1])
        assert contexts.stored_bank(before) is None
        stored = contexts.stored_bank(after)
        assert stored.features.shape == (5, related.FEATURES) and stored.valid.all()
    # A train step consumes both parts.
    one, other = (part["stats"][NAMES[0]].addressable_shards for part in (after, after["ema"]))
    assert not {s.data.unsafe_buffer_pointer() for s in one} & {
        s.data.unsafe_buffer_pointer() for s in other
    }


# ------------------------------------------------------------------- whole runs


RUN = {
    "num_steps": 4,
    "eval_every": 2,
    "checkpoint__every": 3,
    "checkpoint__keep": 9,
    "ema_decay": 0.5,
    "eval__bank_sizes": (4, 24),
    "report__pictures": False,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A finished run: (workdir, result)."""
    workdir = tmp_path_factory.mktemp("related")
    return workdir, train_run.train_run(related.config(**RUN), workdir, cache=cache)


def arrays(workdir, checkpoint):
    """A checkpoint on one device, and all its arrays by part and path."""
    run = load_run.load_run(workdir, checkpoint, Mapper(devices=jax.devices()[:1]))
    return run, {
        f"{part}/{path}": np.asarray(value)
        for part in ("params", "stats")
        for held in (run.state, run.state.get("ema", run.state))
        for path, value in held[part].items()
    }


def test_rows_of_the_contexts_come_before_the_final_row(finished, capsys):
    workdir, result = finished
    rows = [r for r in runtime.read_metrics(workdir) if r["split"].startswith("test")]
    names = ["test_self", "test_bank", "test_batch", "test_bank4", "test_bank24", "test"]
    assert [r["split"] for r in rows] == names and rows[-1]["final"]
    assert set(result.splits) == set(names)
    for row in rows:
        assert {"accuracy", "balanced_accuracy", "f1_macro", "ece", "nll", "loss"} <= row.keys()
    assert rows[-1]["nll"] == pytest.approx(rows[1]["nll"], abs=1e-6)
    again = train_run.train_run(related.config(**RUN), workdir)
    assert set(again.splits) == set(names)
    results = read_run(workdir).results  # of the report
    assert list(results) == [
        "plain", "context self", "context bank", "context batch", "bank of 4", "bank of 24",
    ]  # fmt: skip
    assert results["context batch"]["nll_sd"] == pytest.approx(rows[2]["nll_sd"])
    shown = capsys.readouterr().out
    assert "plain   context self   context bank   context batch   bank of 4   bank of 24" in shown
    assert " ± " in shown


def test_every_checkpoint_has_the_bank_of_its_own_weights(finished, train):
    workdir, _ = finished
    images = BankImages.read(related.config(**RUN), train, SIZE)
    seen = []
    for step in ("2", "3"):  # with a validation, and between two
        run, _ = arrays(workdir, step)
        mapper = Mapper(devices=jax.devices()[:1])
        evaluator = Evaluator(run.system, mapper, take_apart(run.model)[0])
        features = evaluator.features(run.state, images.batches)
        stored = run.state["ema"]["stats"]
        # On eight devices it was 1.4e-6 off, of numbers up to 3.
        np.testing.assert_allclose(stored[NAMES[0]], features, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(stored[NAMES[1]], images.labels)
        np.testing.assert_array_equal(stored[NAMES[2]], images.index)
        np.testing.assert_array_equal(run.state["stats"][NAMES[0]], stored[NAMES[0]])
        seen.append(features)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3


def test_an_interrupted_run_has_the_bank_of_an_uninterrupted_one(
    finished, cache, monkeypatch, tmp_path
):
    config = related.config(**{**RUN, "eval__bank_sizes": ()})
    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "requested", lambda self, step, every: step == 1)
        patch.setattr(StopSignals, "stopped", lambda self, step: loop.Stopped("stopped", 0))
        with pytest.raises(loop.Stopped):
            loop.train_and_evaluate(config, tmp_path, cache=cache)
    loop.train_and_evaluate(config, tmp_path, cache=cache)
    for step in ("3", "4"):
        (_, one), (_, other) = arrays(finished[0], step), arrays(tmp_path, step)
        assert one.keys() == other.keys() and any(name.endswith("bank_index") for name in one)
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_a_smaller_bank_is_the_beginning_of_a_larger_one(finished, train):
    run, _ = arrays(finished[0], "4")
    mapper, config = Mapper(devices=jax.devices()[:1]), related.config(**RUN)
    evaluator = Evaluator(run.system, mapper, take_apart(run.model)[0])
    kept = bank.of_sizes((2, SIZE), run.state, evaluator, config, None)
    made = bank.of_sizes((2, SIZE, 24), run.state, evaluator, config, lambda: train)
    assert {size: len(b.features) for size, b in made.items()} == {2: 2, SIZE: SIZE, 24: 24}
    for size, one in kept.items():
        np.testing.assert_allclose(one.features, made[size].features, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="a bank of 8 images, but the model's has 7"):
        bank.of_sizes((8,), run.state, evaluator, config, None)
    with pytest.raises(ConfigError, match="a bank of 65 images, but 64 labelled ones"):
        bank.of_sizes((65,), run.state, evaluator, config, lambda: train)


def test_eval_mode_repeats_the_rows_of_the_test(finished, cache, tmp_path):
    workdir, result = finished
    # Images are compared in batches of the training's size, not of the evaluation's.
    other = {"batch_size": 8, "eval__batch_size": 16}
    found = evaluate.evaluate(related.config(**{**RUN, **other}), workdir)
    rows = runtime.read_metrics(workdir / runtime.EVALUATIONS_FILE)
    names = ["test", "test_self", "test_bank", "test_batch", "test_bank4", "test_bank24"]
    assert [r["split"] for r in rows] == names
    for name, figures in found.of_split("test").items():
        assert figures == pytest.approx(result.splits[name], abs=1e-5), name
    model = tmp_path / "model"
    export.export(workdir, model)
    config = related.config(eval__bank_sizes=(4,), **other)
    config.init_from = str(model)
    of_model = evaluate.evaluate(config, tmp_path / "out").of_split("test")
    assert list(of_model) == names[:5]
    for name, figures in of_model.items():
        for metric, value in figures.items():
            assert value == pytest.approx(result.splits[name][metric], abs=1e-5), (name, metric)
    config.eval.bank_sizes = (24,)
    with pytest.raises(ConfigError, match="evaluate the run"):
        evaluate.evaluate(config, tmp_path / "out")


def test_pictures_of_a_model_do_not_compare_its_batches(finished, tmp_path, caplog):
    export.export(finished[0], tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    record = json.loads(path.read_text())
    record["arguments"]["relations"]["context"] = "batch"
    path.write_text(json.dumps(record))
    caplog.set_level(logging.INFO)
    opened = model_runner.open_model(tmp_path / "model")
    assert "compared with the model's bank" in caplog.text
    outputs, _ = model_runner.run_over(opened, model_runner.predictor(opened), "test")
    expected = finished[1].evaluation.predictions["logits"]
    np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)


def test_the_bank_travels_to_the_predictor(finished, tmp_path):
    workdir, result = finished
    run, held = arrays(workdir, "best")
    export.export(workdir, tmp_path / "model")
    source = data_lib.make_sources(related.config())["test"]
    with data_lib.eval_batches(related.config(), source) as batches:
        images = next(iter(batches))["image"]
    predictor = affect_jax.load(tmp_path / "model")
    for name in (*NAMES, *(n for n in run.state["stats"] if n.endswith("label_vectors"))):
        loaded = take_apart(predictor.loaded.model)[2][name]
        np.testing.assert_array_equal(loaded, held[f"stats/{name}"])
    outputs = predictor.outputs(images)
    assert outputs["relation_weights"].shape == (16, SIZE + 1)
    tested = result.evaluation.predictions
    np.testing.assert_allclose(outputs["logits"], tested["logits"][:16], rtol=0, atol=1e-5)
    again = pickle.loads(pickle.dumps(predictor)).outputs(images)
    for name, value in outputs.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_two_processes_fill_the_bank_of_one(mapping, tmp_path):
    """Each process reads a part of the bank's images; contexts are measured alike."""
    changes = {"optimizer__name": "sgd", "optimizer__momentum": 0.0, "parallel__mapping": mapping}
    changes |= {"num_steps": 2, "eval__bank_sizes": (24,), "report__pictures": False}
    loop.train_and_evaluate(related.config(**changes), tmp_path / "one")
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    file = "tests/affect_jax/related.py"
    processes = [
        tiny.start(tmp_path / "two", *flags, f"--process_id={rank}", file=file, **changes)
        for rank in range(2)
    ]
    for process in processes:
        finish(process)
    banks = [arrays(tmp_path / name, "best")[0].state["stats"] for name in ("one", "two")]
    for name in NAMES:
        np.testing.assert_allclose(banks[1][name], banks[0][name], rtol=1e-3, atol=1e-4)
    one, two = (runtime.read_metrics(tmp_path / name) for name in ("one", "two"))
    assert [row["split"] for row in one] == [row["split"] for row in two]
    for mine, theirs in zip(one, two, strict=True):
        for name in ("loss", "nll", "nll_sd", "gradient_norm", "neighbour_loss"):
            if name in mine:
                np.testing.assert_allclose(theirs[name], mine[name], rtol=1e-3, atol=1e-5)
