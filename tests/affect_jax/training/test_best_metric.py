"""Model selection: by what the run trains, on a validation split that can tell."""

import cv2
import numpy as np
import pytest

from affect_jax import batches, runtime, systems
from affect_jax import config as config_lib
from affect_jax.evaluation import evaluator as evaluator_lib
from affect_jax.experiments import evaluate_run
from affect_jax.models.state import Blueprint
from affect_jax.runtime.parallel import Mapper
from affect_jax.training import best_metric, loop
from configs import arbex_rafdb, base, emofan_afewva, emofan_faces, fan_300w, quickstart
from data_pipelines.sources.subset import Subset
from data_pipelines.sources.synthetic import SyntheticFaces
from tests.affect_jax import tiny

ALL = frozenset({"expression", "valence_arousal", "landmarks"})
FACES = frozenset({"expression", "valence_arousal"})


def create(config, has=ALL, **changes):
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return systems.create(
        config, class_names=("a", "b", "c"), has=frozenset(has), class_counts=(3, 2, 1)
    )


def names(system, has=None):
    evaluator = evaluator_lib.Evaluator(system, Mapper(), Blueprint(None, {}, {}, None))
    return evaluator.metric_names(has)


@pytest.mark.parametrize(
    ("module", "has", "changes", "supervised", "known"),
    [
        (base, ALL, {}, FACES, FACES),
        (emofan_afewva, ALL - {"expression"}, {}, {"valence_arousal"}, {"valence_arousal"}),
        # Started from a trained trunk, which trains on without landmarks.
        (emofan_afewva, ALL - {"expression"}, {"init_from": "x"}, {"valence_arousal"}, None),
        (quickstart, ALL, {}, ALL, ALL),
        (quickstart, FACES, {}, FACES, FACES),
        (quickstart, ALL, {"loss__categories": False}, ALL - {"expression"}, None),
        (quickstart, ALL, {"loss__regression": "none"}, ALL - {"valence_arousal"}, None),
        # A trunk that stays as it is knows landmarks, and is not what is chosen.
        (quickstart, ALL, {"model__train_trunk": False}, FACES, ALL),
        (quickstart, ALL, {"optimizer__freeze": ("fan",)}, FACES, ALL),
        (quickstart, ALL, {"optimizer__freeze": ("fan/stem",)}, ALL, ALL),
        (emofan_faces, ALL, {}, FACES, FACES),
        (emofan_faces, ALL, {"model__train_trunk": False}, FACES, ALL),
        (fan_300w, ALL, {}, {"landmarks"}, {"landmarks"}),
        (arbex_rafdb, ALL, {}, {"expression"}, {"expression"}),
    ],
)
def test_what_is_supervised_and_known(module, has, changes, supervised, known):
    system = create(module.get_config(), has | {"attributes"}, **changes)
    assert system.supervised == supervised
    assert system.known == (supervised if known is None else known)


def test_a_checkpoint_cannot_be_chosen_by_what_is_not_trained():
    afew = create(emofan_afewva.get_config(), ALL - {"expression"})
    assert {"loss", "valence_ccc"} <= names(afew)
    assert not {"nme", "accuracy"} & names(afew)
    regression = create(quickstart.get_config(), ALL, loss__categories=False)
    assert "nme" in names(regression) and not {"accuracy", "f1_macro"} & names(regression)
    frozen = create(quickstart.get_config(), ALL, model__train_trunk=False)
    assert {"nme", "loss"} <= names(frozen)
    # A split with fewer labels has fewer figures; without any it has no loss either.
    assert {"loss", "accuracy"} <= names(frozen, {"expression"})
    assert not {"nme", "valence_ccc"} & names(frozen, {"expression"})
    assert "loss" not in names(frozen, {"landmarks"})
    assert names(frozen, set()) == set()
    # Mixtures are measured where a split has them, and classes are trained.
    votes = {"expression", "expression_probs"}
    assert "mixture_kl" in names(frozen, votes) - names(frozen, {"expression"})
    assert "mixture_kl" not in names(regression, votes)


def test_balancing_is_not_measured_where_no_classes_are_trained():
    """Of classes without a loss there is neither a final nor a primary distribution."""
    config = quickstart.get_config()
    config.model.reliability.update(enabled=True, anchors=2)
    outputs = {k: np.zeros((4, 3)) for k in ("logits", "primary", "corrected")}
    outputs |= {"valence": np.zeros(4), "arousal": np.zeros(4)}
    outputs |= {"anchor_distances": np.zeros((4, 3, 2))}
    system = create(config, FACES, loss__categories=False)
    assert system.predictions(outputs, 32).keys() == {"valence", "arousal"}
    assert not system.extra_metrics(1)
    assert create(config, FACES, loss__categories=True).extra_metrics(1)
    assert not {n for n in names(create(config, FACES), {"valence_arousal"}) if "primary" in n}


def test_trust_is_ramped_in_while_classes_are_trained():
    """The counter stands still in the landmark stage, so that the ramp must not count it."""
    config = quickstart.get_config()
    config.model.reliability.update(enabled=True, anchors=2, correction="trust")
    config.num_steps = 1000
    for steps, ramp in ((250, 750), (700, 500), (0, 1000)):
        system = create(config, landmark_stage__steps=steps)
        assert system.balancing["ramp_steps"] == ramp == 1000 - system.phases(1000)[-1].start


def test_a_validation_with_predictions_that_are_not_finite_is_not_chosen(caplog):
    figures = {"accuracy": 0.5, "invalid_predictions": 2}
    kept = best_metric.figures_to_save(figures, "accuracy", 4)
    assert np.isnan(kept["accuracy"]) and kept["invalid_predictions"] == 2
    assert figures["accuracy"] == 0.5 and "step 4: accuracy is not finite" in caplog.text
    assert best_metric.figures_to_save({"accuracy": 0.5}, "accuracy", 4) == {"accuracy": 0.5}


def manifest(folder, rows):
    """A CSV of 32 x 32 images; rows of (expression, valence, arousal, split)."""
    lines = ["path,expression,valence,arousal,split"]
    for i, row in enumerate(rows):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        lines.append(",".join((f"{i}.png", *row)))
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "faces.csv")


def run_on(path, tmp_path, **changes):
    config = tiny.one_block(
        data__source="manifest", data__manifest=path, num_steps=1, report__pictures=False, **changes
    )
    return loop.train_and_evaluate(config, tmp_path / "run")


TRAIN = [("happy" if i % 2 else "sad", "0.1", f"{i / 20}", "train") for i in range(16)]
TEST = [("happy", "0.3", "0.2", "test"), ("sad", "-0.5", "0.1", "test")]


@pytest.mark.parametrize(
    ("validation", "changes", "message"),
    [
        (("", "", "", "val"), {}, r"validation split has no labels of expression, valence_arousal"),
        (("", "0.2", "0.1", "val"), {"loss__regression": "none"}, "no labels of expression"),
        (
            ("happy", "", "", "val"),
            {"checkpoint__best_metric": "valence_ccc"},
            r"best_metric = 'valence_ccc' is not measured on the validation split.*\(expression\)",
        ),
        (("happy", "", "", "val"), {"loss__categories": False}, "no labels of valence_arousal"),
    ],
)
def test_a_validation_split_that_cannot_choose_is_refused(validation, changes, message, tmp_path):
    path = manifest(tmp_path, [*TRAIN, validation, validation, *TEST])
    with pytest.raises(config_lib.ConfigError, match=message):
        run_on(path, tmp_path, **changes)
    assert not list((tmp_path / "run").glob("checkpoints/[0-9]*"))


def test_nothing_to_learn_is_refused(tmp_path):
    path = manifest(tmp_path, [*TRAIN, *[("happy", "0", "0", "val")] * 2, *TEST])
    with pytest.raises(config_lib.ConfigError, match="this run would learn nothing"):
        run_on(path, tmp_path, loss__categories=False, loss__regression="none")


def test_a_split_with_part_of_the_labels_chooses_by_those(tmp_path, caplog):
    path = manifest(tmp_path, [*TRAIN, *[("happy", "", "", "val")] * 2, *TEST])
    result = run_on(path, tmp_path)
    assert "has no labels of valence_arousal: they" in caplog.text
    rows = runtime.read_metrics(tmp_path / "run")
    (validation,) = (row for row in rows if row["split"] == "validation")
    assert validation["loss"] == validation["nll"] and "valence_ccc" not in validation
    expected = 1 - (result.metrics["valence_ccc"] + result.metrics["arousal_ccc"]) / 2
    assert result.metrics["loss"] == pytest.approx(result.metrics["nll"] + expected)


def test_labels_of_a_part_of_a_source():
    class Faces(SyntheticFaces):
        def __getitem__(self, i):
            record = super().__getitem__(i)
            if i < 3:
                record["valence_arousal"] = np.array([np.nan, 0.5 if i == 1 else np.nan])
            if i == 3:
                raise OSError
            return record

    faces = Faces(6, image_size=32)
    assert batches.labels_of(faces) == ALL
    assert batches.labels_of(Subset(faces, [0, 2])) == ALL - {"valence_arousal"}
    assert batches.labels_of(Subset(faces, [0, 1])) == ALL
    assert batches.labels_of(Subset(faces, [3])) == {"expression"}
    part = Subset(faces, [4])
    part.labels = np.array([-1])
    assert batches.labels_of(part) == ALL - {"expression"}


@pytest.mark.parametrize("steps", [300, None])
def test_an_evaluation_ramps_trust_by_the_length_of_the_run(steps):
    """Whatever length the config that names the data has."""
    recorded, given = tiny.one_block(num_steps=steps), tiny.one_block(num_steps=100_000)
    assert evaluate_run._as_trained(given, recorded).num_steps == steps
    assert given.num_steps == 100_000
