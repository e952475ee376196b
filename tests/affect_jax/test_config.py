"""Configurations: overrides, misspelt keys, and workdirs that belong to another run."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.experiments import planned_runs
from affect_jax.metrics.names import known_names
from affect_jax.models.reliability_settings import to_section
from configs import arbex_synthetic, base
from data_pipelines.images import presets

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_has_only_documented_fields(path):
    config = config_lib.load_file(path)
    documented = base.get_config()
    documented.model = base.model(config.model.name)
    assert config_lib.flatten(config).keys() <= config_lib.flatten(documented).keys()
    assert path.read_text().startswith('"""')


# Steps of an epoch (training pictures of the usual split over the batch, or classes x 500 with
# refinement) of the configs at full size, whose checkpoints weigh 0.4 GB and more.
EPOCHS = {
    "arbex_rafdb": 55,
    "arbex_jaffe": 55,
    "arbex_fergdb": 55,
    "arbex_ferplus": 62,
    "arbex_affwild2": 62,
    "poster_v2_rafdb": 72,
    "vit_se_fer2013": 449,
    "vit_se_rafdb": 163,
    "vit_se_sfew": 24,
    "vit_se_ckplus": 30,
    "vit_se_jaffe": 5,
}


@pytest.mark.parametrize("name", EPOCHS)
def test_large_checkpoints_are_saved_now_and_then(name):
    config = config_lib.load_file(ROOT / "configs" / f"{name}.py")
    every = config.eval_every or EPOCHS[name]
    total = config.num_epochs * EPOCHS[name]
    # A save comes with each validation; in between there is none.
    assert config.checkpoint.every % every == 0
    assert 3 <= total / every <= 120
    assert every >= min(2 * EPOCHS[name], 440)


def test_configs_of_papers_follow_them():
    ferplus = config_lib.load_file(ROOT / "configs" / "arbex_ferplus.py")
    assert ferplus.data.dataset == "ferplus/majority"  # the class, not the votes
    for name in ("rafdb", "jaffe", "ferplus", "fergdb", "affwild2"):
        config = config_lib.load_file(ROOT / "configs" / f"arbex_{name}.py")
        overrides = config.data.augment_overrides.to_dict()
        assert presets.resolve(config.data.augment, overrides).erase == 0.0
        assert presets.resolve(config.data.augment, overrides).flip == 0.5
    for name in ("jaffe", "fergdb"):
        text = (ROOT / "configs" / f"arbex_{name}.py").read_text()
        assert "The paper does not say how it split the data" in text
    assert "JFT-300M" in (ROOT / "configs" / "vit_se_fer2013.py").read_text()


def test_configs_list_every_field_of_their_model():
    """So that each is an argument of the command line."""
    for path in CONFIGS:
        section = config_lib.load_file(path).model.to_dict()
        assert sorted(section) == base.model(section["name"]).keys(), path
    section = arbex_synthetic.get_config().model
    assert section.backbone.to_dict() == base.model("arbex_tiny").backbone.to_dict()
    assert section.reliability.to_dict() == to_section({})


def test_a_run_from_before_a_model_had_an_argument_still_fits(tmp_path):
    config = arbex_synthetic.get_config()
    config_lib.claim_workdir(tmp_path, config)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    recorded = json.loads((tmp_path / "config.json").read_text())
    for name in ("reduction", "hidden", "dropout", "backbone", "reliability"):
        del recorded["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    config_lib.check_workdir(tmp_path, config)
    config.model.reliability.heads = 2
    config.model.backbone.embedding = 64
    expected = r"backbone.embedding: there 128, now 64\n.*reliability.heads: there 4, now 2"
    with pytest.raises(config_lib.ConfigError, match=expected):
        config_lib.check_workdir(tmp_path, config)


@pytest.mark.parametrize("sizes", [(0, 5), (-1,), ("a",), (1.5,), (True,)])
def test_sizes_of_banks_are_whole_numbers(sizes):
    config = base.get_config()
    config.eval.bank_sizes = (32, 512)
    config_lib.check(config)
    config.eval.bank_sizes = sizes
    with pytest.raises(config_lib.ConfigError, match=r"eval\.bank_sizes = .*as \(32,512\)"):
        config_lib.check(config)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "quickstart.py").write_text("")
    with pytest.raises(config_lib.ConfigError, match=r"quickstart\.py"):
        config_lib.load_file(tmp_path / "quikstart.py")
    with pytest.raises(config_lib.ConfigError, match="get_config"):
        config_lib.load_file(tmp_path / "quickstart.py")
    (tmp_path / "quickstart.json").write_text("{}")
    with pytest.raises(config_lib.ConfigError, match=r"must end in \.py"):
        config_lib.load_file(tmp_path / "quickstart.json")


def test_workdir_of_another_config_is_refused(tmp_path):
    config = base.get_config()
    config_lib.claim_workdir(tmp_path, config)
    config.log_every = 3
    config.num_steps = 7
    config_lib.claim_workdir(tmp_path, config)
    config.model.width = 32
    config_lib.claim_workdir(tmp_path, config)  # nothing was trained yet: a mended config is fine
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    config.model.width = 64
    with pytest.raises(config_lib.ConfigError, match=r"model.width: there 32, now 64"):
        config_lib.claim_workdir(tmp_path, config)


def test_a_workdir_from_before_a_field_existed_still_fits(tmp_path):
    config = base.get_config()
    config_lib.claim_workdir(tmp_path, config)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    recorded = json.loads((tmp_path / "config.json").read_text())
    del recorded["mixing"], recorded["data"]["crop_scale"]
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    config_lib.claim_workdir(tmp_path, config)
    assert config_lib.read_workdir_config(tmp_path).data.crop_scale == 0.0


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("loss", "min"),
        ("accuracy", "max"),
        ("recall_sad", "max"),
        ("nll_primary", "min"),
        ("f1_macro_primary", "max"),
        ("valence_ccc", "max"),
        ("arousal_rmse", "min"),
        ("nme", "min"),
        ("nme_auc", "max"),
        ("ece", "min"),
        ("correction_worse", "min"),
    ],
)
def test_the_best_mode_follows_the_metric(metric, mode):
    other = {"max": "min", "min": "max"}[mode]
    for given in ("auto", "", mode):
        assert config_lib.selection_mode(metric, given) == mode
    with pytest.raises(config_lib.ConfigError, match=f"worst checkpoint.*{mode}"):
        config_lib.selection_mode(metric, other)


def test_metrics_whose_better_value_is_not_known():
    directed = {n for n in known_names() if runtime.higher_is_better(n) is not None}
    assert known_names() - directed == {
        *("classes_counted", "confidence_primary", "confidence_corrected", "correction_changed"),
        *("spread_primary", "spread_final", "anchors_never_win"),
    }
    with pytest.raises(config_lib.ConfigError, match="no better direction"):
        config_lib.selection_mode("spread_final")
    assert config_lib.selection_mode("spread_final", "max") == "max"
    with pytest.raises(config_lib.ConfigError, match="'acuracy' is not a metric; did you mean"):
        config_lib.selection_mode("acuracy")
    config = base.get_config()
    config.checkpoint.best_metric, config.checkpoint.best_mode = "accuracy", "min"
    with pytest.raises(config_lib.ConfigError, match=r"best_mode = 'min' with best_metric = 'acc"):
        config_lib.check(config)


@pytest.mark.parametrize("then", ["max", "min", "auto"])
def test_a_run_from_before_the_mode_was_automatic_still_fits(then, tmp_path):
    config = base.get_config()
    config.checkpoint.best_metric = "accuracy"
    config_lib.claim_workdir(tmp_path, config)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    recorded = json.loads((tmp_path / "config.json").read_text())
    recorded["checkpoint"]["best_mode"] = then
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    for now in ("auto", "max"):
        config.checkpoint.best_mode = now
        config_lib.check_workdir(tmp_path, config)
    assert config_lib.read_workdir_config(tmp_path).checkpoint.best_mode == "auto"
    config.checkpoint.best_metric = "loss"
    with pytest.raises(config_lib.ConfigError, match="best_metric: there 'accuracy', now 'loss'"):
        config_lib.check_workdir(tmp_path, config)


def test_a_digest_does_not_depend_on_how_the_mode_is_written():
    config = base.get_config()
    digests = []
    for metric, modes in (("loss", ("auto", "min")), ("accuracy", ("auto", "max"))):
        config.checkpoint.best_metric = metric
        for mode in modes:
            config.checkpoint.best_mode = mode
            digests.append(planned_runs.digest(config))
    assert digests[0] == digests[1] != digests[2] == digests[3]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("log_every", 0),
        ("checkpoint.every", 0),
        ("eval.batch_size", -3),
        ("ema_decay", 2.0),
        ("model.mean", (0.5, 0.5)),
        ("model.std", (0.5, 0.0, 0.5)),
        ("loss.teacher", "somewhere"),
        ("data.image_size", 0),
    ],
)
def test_values_that_would_fail_late_are_refused_early(key, value):
    config = base.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(config_lib.ConfigError, match=re.escape(f"config.{key}")):
        config_lib.check(config)
    config_lib.check(base.get_config())


def test_a_broken_config_file_is_named_with_its_line(tmp_path):
    (tmp_path / "x.py").write_text("def get_config(:\n")
    with pytest.raises(config_lib.ConfigError, match=r"x\.py, line 1: SyntaxError"):
        config_lib.load_file(tmp_path / "x.py")


def test_config_survives_the_workdir(tmp_path):
    config = base.get_config()
    config.num_steps = 5
    config_lib.claim_workdir(tmp_path, config)
    read = config_lib.read_workdir_config(tmp_path)
    assert config_lib.to_plain(read) == config_lib.to_plain(config)


def test_damaged_or_absent_workdir_config(tmp_path):
    with pytest.raises(config_lib.ConfigError, match="not the workdir"):
        config_lib.read_workdir_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(config_lib.ConfigError, match="damaged"):
        config_lib.read_workdir_config(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/base.py"], "--workdir"),
        (["--config=configs/base.py", "--workdir=x", "--config.model.widht=3"], "model.width"),
        (["--config=configs/base.py", "--workdir=x", "--config.batch_size=many"], "many"),
        (["--config=configs/quikstart.py", "--workdir=x"], "quickstart.py"),
        (["--config=configs/base.py", "--workdir=x", "batch_size=3"], "unexpected"),
        (["--config=configs/base.py", "--wrkdir=x"], "workdir"),
    ],
)
def test_command_line_mistakes_end_with_one_message(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "affect_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_that_is_not_python_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(config_lib.ConfigError, match="not a Python file"):
        config_lib.load_file(path)
