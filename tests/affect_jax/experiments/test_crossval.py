"""Cross-validation: folds without shared persons, pooled figures, what is run and recorded."""

import json

import numpy as np
import pytest

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.evaluation import predictions
from affect_jax.experiments import crossval, planned_runs, sweep, train_run
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.metrics.regression import RegressionStatistics
from affect_jax.training import loop
from data_pipelines.schema import DataError
from data_pipelines.sources import make
from tests.affect_jax import fake_runs, tiny
from tests.affect_jax.experiments.sweeps import read_csv
from tests.affect_jax.label_trees import SIX


def config(folds: int = 4, **changes):
    """Sixteen persons with four images each."""
    changes = {"data__synthetic__videos_per_person": 4, "landmark_stage__steps": 0} | changes
    return tiny.config(crossval__folds=folds, **changes)


@pytest.fixture
def fakes(monkeypatch):
    """Runs are made up; (test fold) of each one started, and what they predicted."""
    started = {}

    def run(config, workdir, show_test=True, cache=None):
        fold = config.data.test_fold
        started[fold] = started.get(fold, 0) + 1
        if config.loss.regression == "pcc" and fold == 1:
            raise RuntimeError("made to fail")
        fake_runs.finish(config, workdir, 0.5 + 0.1 * fold, seed=fold)

    monkeypatch.setattr(train_run, "train_run", run)
    return started


@pytest.mark.parametrize("protocol", ["folds", "leave_one_out"])
def test_no_person_is_in_two_folds_or_on_two_sides(protocol, tmp_path):
    planned = crossval.plan(config(crossval__protocol=protocol), tmp_path)
    assert len(planned) == {"folds": 4, "leave_one_out": 16}[protocol]
    tested, images = [], []
    for run in planned.values():
        made = make.make_sources(run.config.data)
        people = {split: set(source.persons) for split, source in made.items()}
        assert not people["train"] & people["test"]
        assert not people["train"] & people["validation"]
        assert not people["validation"] & people["test"]
        assert len(set.union(*people.values())) == 16
        assert sum(len(s) for s in made.values()) == 64
        tested += sorted(people["test"])
        images += made["test"].rows.tolist()
    assert len(tested) == len(set(tested)) == 16
    assert sorted(images) == list(range(64))


def test_folds_are_even_and_hold_the_images_they_name():
    section = config().data
    section.protocol, section.folds = "folds", 4
    sizes = []
    for section.test_fold in range(4):
        test = make.make_sources(section)["test"]
        sizes.append(len(test))
    # Sixteen, but for the classes of one person, who has four.
    assert sum(sizes) == 64 and min(sizes) >= 12 and max(sizes) <= 20
    assert test[3]["expression"] == test.labels[3]
    assert test.describe(3) == test.base.describe(int(test.rows[3]))


def test_contexts_are_means_of_the_folds(monkeypatch, tmp_path, capsys):
    def run(config, workdir, show_test=True, cache=None):
        fold = config.data.test_fold
        fake_runs.finish(config, workdir, 0.5, seed=fold)
        *lines, final = (workdir / "metrics.jsonl").read_text().splitlines()
        row = {"step": json.loads(final)["step"], "split": "test_self", "time": 0.0}
        row |= {"accuracy": 0.1 * fold, "f1_macro": 0.5} if fold else {"accuracy": 0.1 * fold}
        lines = [*lines, json.dumps(row), final]
        (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(train_run, "train_run", run)
    crossval.cross_validate(config(), tmp_path)
    found = {row["split"]: row for row in runtime.read_metrics(tmp_path)}
    assert list(found) == ["fold_mean", "fold_sd", "test_self", "test"]
    assert found["test_self"]["accuracy"] == pytest.approx(0.15)
    # One fold has too few images of some class: there is no mean of the others.
    assert "f1_macro" not in found["test_self"]
    assert planned_runs.read_figures(tmp_path)["test_self/accuracy"] == pytest.approx(0.15)
    assert "context self, mean        0.150" in capsys.readouterr().out
    assert "| **pooled** |" in (tmp_path / "report/table.md").read_text()


def test_label_noise_is_left_to_the_training_side():
    section = config(data__synthetic__symmetric_noise=0.5).data
    section.protocol, section.folds, section.test_fold = "folds", 4, 0
    made = make.make_sources(section)
    for split in ("validation", "test"):
        truth = np.array([made[split][i]["true_expression"] for i in range(len(made[split]))])
        np.testing.assert_array_equal(made[split].labels, truth)
    train_source = made["train"]
    truth = np.array([train_source[i]["true_expression"] for i in range(len(train_source))])
    assert 0.3 < np.mean(train_source.labels != truth) < 0.7


def test_groups_that_are_too_small_are_told_plainly(tmp_path):
    with pytest.raises(DataError, match="17 folds cannot be cut from 16 persons"):
        crossval.plan(config(folds=17), tmp_path)
    few = {"data__synthetic__num_train": 32, "data__synthetic__videos_per_person": 16}
    with pytest.raises(DataError, match="at least 3 persons; the data hold 2"):
        crossval.plan(config(crossval__protocol="leave_one_out", **few), tmp_path)
    section = config(**few).data
    section.protocol, section.folds, section.test_fold = "folds", 2, 0
    with pytest.raises(DataError, match="no person is left for validation"):
        make.make_sources(section)
    with pytest.raises(ConfigError, match="leave_one_out"):
        crossval.plan(config(crossval__protocol="leave_one"), tmp_path)
    with pytest.raises(ConfigError, match="folds are 0 to 3"):
        crossval.cross_validate(config(crossval__only="4"), tmp_path)


def test_pooled_figures_are_those_of_all_predictions_together(fakes, tmp_path):
    result = crossval.cross_validate(config(), tmp_path)
    assert fakes == {0: 1, 1: 1, 2: 1, 3: 1} and result.failed == 0
    parts = [predictions.load(tmp_path / f"folds/{k}/report") for k in range(4)]
    each = [
        ClassificationStatistics(3).update(np.log(p["probabilities"]), p["expression"]).confusion
        for p in parts
    ]
    np.testing.assert_array_equal(result.confusion, sum(each))
    assert result.confusion.sum() == 40
    assert result.pooled["accuracy"] == pytest.approx(np.trace(result.confusion) / 40)
    together = RegressionStatistics().update(
        np.concatenate([p["valence_arousal_predicted"] for p in parts]),
        np.concatenate([p["valence_arousal"] for p in parts]),
    )
    assert result.pooled["valence_ccc"] == pytest.approx(together.compute()["valence_ccc"])

    report = tmp_path / "report"
    lines = {r["fold"]: r for r in read_csv(report / "table.csv")}
    assert [float(lines[f"{k}"]["accuracy"]) for k in range(4)] == pytest.approx(
        [0.5, 0.6, 0.7, 0.8]
    )
    assert float(lines["mean"]["accuracy"]) == pytest.approx(0.65)
    assert float(lines["sd"]["accuracy"]) == pytest.approx(
        np.std([0.5, 0.6, 0.7, 0.8], ddof=1), rel=1e-4
    )
    assert float(lines["pooled"]["accuracy"]) == pytest.approx(result.pooled["accuracy"], rel=1e-4)
    counts = [[int(r[c]) for c in fake_runs.CLASSES] for r in read_csv(report / "confusion.csv")]
    np.testing.assert_array_equal(counts, result.confusion)
    assert (report / "confusion_matrix.png").exists()
    assert len(read_csv(report / "predictions.csv")) == 40
    placed = [r["person"] for r in read_csv(report / "folds.csv") if r["split"] == "test"]
    assert len(placed) == len(set(placed)) == 16
    final = runtime.read_metrics(tmp_path)[-1]
    assert final["final"] and final["accuracy"] == pytest.approx(result.pooled["accuracy"])


def test_folds_are_resumed_and_failures_recorded(fakes, tmp_path):
    bad = config(loss__regression="pcc")
    crossval.cross_validate(config(loss__regression="pcc", crossval__only="0,2"), tmp_path)
    assert fakes == {0: 1, 2: 1}
    result = crossval.cross_validate(bad, tmp_path)
    assert fakes == {0: 1, 1: 1, 2: 1, 3: 1}
    assert result.failed == 1 and sorted(result.figures) == [0, 2, 3]
    assert "made to fail" in (tmp_path / "report/table.md").read_text()
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"folds": 3}, "crossval.folds: there 4, now 3"),
        ({"crossval__protocol": "leave_one_out"}, "crossval.protocol: there 'folds'"),
        ({"init_from": "elsewhere"}, "init_from: there '', now 'elsewhere'"),
    ],
)
def test_folds_of_another_config_are_refused_and_kept(changes, key, fakes, tmp_path):
    crossval.cross_validate(config(), tmp_path)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    assert {"metrics.jsonl", "config.json", "folds.csv"} <= {p.name for p in before}
    with pytest.raises(ConfigError, match=f"(?s)holds a run of another config:.*{key}"):
        crossval.cross_validate(config(**changes), tmp_path)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before
    assert sum(fakes.values()) == 4


def test_folds_are_resumed_by_part_and_longer(fakes, tmp_path):
    crossval.cross_validate(config(crossval__only="1"), tmp_path)
    crossval.cross_validate(config(crossval__only="2"), tmp_path)
    assert fakes == {1: 1, 2: 1}
    assert sorted(crossval.cross_validate(config(num_steps=20), tmp_path).figures) == [0, 1, 2, 3]
    assert fakes == {0: 1, 1: 2, 2: 2, 3: 1}


def failing(monkeypatch, errors):
    """Runs that raise what `errors` has for their fold; the folds started, in order."""
    started = []

    def run(config, workdir, show_test=True, cache=None):
        fold = config.data.test_fold
        started.append(fold)
        if fold in errors:
            raise errors[fold]
        fake_runs.finish(config, workdir, 0.5, seed=fold)

    monkeypatch.setattr(train_run, "train_run", run)
    return started


MISTAKE = UserError("init_from does not fit:\n  missing: head/kernel")


def test_a_mistake_of_all_folds_ends_the_first(monkeypatch, tmp_path, caplog):
    started = failing(monkeypatch, dict.fromkeys(range(4), MISTAKE))
    with pytest.raises(UserError, match=r"(?s)fold 0 failed before.*missing: head/kernel"):
        crossval.cross_validate(config(), tmp_path)
    assert started == [0]
    assert "missing" not in caplog.text  # the command says it once
    # Corrected, it continues in the same folder.
    started = failing(monkeypatch, {})
    crossval.cross_validate(config(init_from="better"), tmp_path)
    assert started == [0, 1, 2, 3]


def test_a_mistake_is_recorded_once_folds_have_trained(monkeypatch, tmp_path, caplog):
    started = failing(monkeypatch, {1: MISTAKE})
    assert crossval.cross_validate(config(), tmp_path).failed == 1
    assert started == [0, 1, 2, 3]
    assert caplog.text.count("missing: head/kernel") == 1
    line = f"fold 1: failed: init_from does not fit: ... (all of it: {tmp_path}/folds/1/error.txt)"
    assert line in (tmp_path / "report/table.md").read_text()
    assert (tmp_path / "folds/1/error.txt").read_text() == f"{MISTAKE}\n"


@pytest.mark.parametrize("error", [DataError("bad image"), loop.Diverged("step 3"), OSError()])
def test_what_may_be_wrong_with_one_fold_ends_no_other(error, monkeypatch, tmp_path):
    started = failing(monkeypatch, {0: error})
    assert crossval.cross_validate(config(), tmp_path).failed == 1
    assert started == [0, 1, 2, 3]


def test_a_fold_that_lost_its_predictions_is_tested_again(fakes, tmp_path):
    crossval.cross_validate(config(), tmp_path)
    (tmp_path / "folds/2/report/predictions.npz").unlink()
    (tmp_path / "report/table.md").unlink()
    result = crossval.cross_validate(config(crossval__only="0"), tmp_path)
    assert sorted(result.figures) == [0, 1, 3]
    assert "1 of 4 folds are not finished yet" in (tmp_path / "report/table.md").read_text()
    crossval.cross_validate(config(), tmp_path)
    assert fakes == {0: 1, 1: 1, 2: 2, 3: 1}
    # A pooled result is replaced once a fold has been run again.
    pooled = tmp_path / "metrics.jsonl"
    pooled.write_text('{"step": 8, "split": "test", "time": 0, "accuracy": 0.0, "final": true}\n')
    (tmp_path / "folds/2/report/predictions.npz").unlink()
    result = crossval.cross_validate(config(), tmp_path)
    assert runtime.read_metrics(tmp_path)[-1]["accuracy"] == pytest.approx(
        result.pooled["accuracy"]
    )


def test_coarse_classes_are_pooled_too():
    random = np.random.default_rng(0)
    parts, all_logits, all_labels = [], [], []
    for _ in range(2):
        logits, labels = random.normal(size=(9, 6)), random.integers(0, 6, 9)
        outputs = {"index": np.arange(9), "logits": logits, "expression": labels}
        parts.append(predictions.gather(outputs, SIX.fine, [*map(str, range(9))], hierarchy=SIX))
        all_logits.append(logits)
        all_labels.append(labels)
    figures, _ = crossval.pool(parts)
    expected = HierarchyStatistics(SIX).update(
        {"logits": np.concatenate(all_logits)}, {"expression": np.concatenate(all_labels)}
    )
    for name, value in expected.compute().items():
        assert figures[name] == pytest.approx(value)
    assert figures["pole_accuracy"] >= figures["coarse_accuracy"] >= figures["accuracy"]
    line = next(iter(crossval._prediction_lines(0, parts[0])))
    assert line["coarse"] == SIX.coarse[SIX.coarse_of[all_labels[0][0]]]


def test_predictions_that_are_no_numbers_are_not_dropped():
    true = np.random.default_rng(0).uniform(0, 32, (4, 68, 2)).astype(np.float32)
    guess = true + 1
    true[0] = np.nan  # no label: left out
    outputs = {"index": np.arange(4), "landmarks": guess, "true_landmarks": true}
    part = predictions.gather(outputs, fake_runs.CLASSES, list("abcd"))
    figures, _ = crossval.pool([part, part])
    expected = LandmarkStatistics().update(guess, true).compute()
    assert figures == pytest.approx(expected) and figures["nme_box"] > 0
    guess[2, 5] = np.nan
    bad = predictions.gather(outputs, fake_runs.CLASSES, list("abcd"))
    assert np.isnan(crossval.pool([part, bad])[0]["nme"])


def test_a_sweep_can_be_of_cross_validations(fakes, tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(
        "from tests.affect_jax.experiments import test_crossval\n"
        "def get_config():\n    return test_crossval.config(folds=3)\n"
        "def get_sweep(config):\n"
        '    return {"cell": "crossval", "rows": {"a": {}}, "seeds": (0,)}\n'
    )
    made = config_lib.load_file(path)
    assert sweep.run(made, tmp_path / "w", path) == 0
    assert sweep.run(made, tmp_path / "w", path) == 0
    assert fakes == {0: 1, 1: 1, 2: 1}
    pooled = runtime.read_metrics(tmp_path / "w/cells/a/seed0")[-1]["accuracy"]
    line = next(r for r in read_csv(tmp_path / "w/report/table.csv") if r["column"] == "accuracy")
    assert float(line["mean"]) == pytest.approx(pooled, rel=1e-4)


def test_scores_that_few_folds_have_get_no_mean():
    folds = {0: {"accuracy": 0.4, "f1_macro": 0.3, "recall/sad": 1.0}, 1: {"accuracy": 0.6}}
    over = crossval._over_folds(folds)
    assert over["mean"] == {"accuracy": pytest.approx(0.5)}
    assert over["sd"] == {"accuracy": pytest.approx(0.02**0.5)}
