"""Configurations: overrides, misspelt keys, and workdirs that belong to another run."""

import inspect
import json
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from affect_jax import config as config_lib
from affect_jax import models, runtime
from affect_jax.experiments import planned_runs
from affect_jax.metrics.names import known_names
from affect_jax.models.poster import Poster
from affect_jax.models.reliability import SETTINGS
from configs import arbex_official_rafdb, arbex_rafdb, arbex_synthetic, base, poster_v2_rafdb
from data_pipelines.images import presets

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_has_only_documented_fields(path):
    config = config_lib.load_file(path)
    documented = base.get_config()
    if config.model.name != documented.model.name:
        # Another model has other constructor arguments.
        config.model = documented.model
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
        assert "unknown protocol" in (ROOT / "configs" / f"arbex_{name}.py").read_text()
    assert "JFT-300M" in (ROOT / "configs" / "vit_se_fer2013.py").read_text()


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--config.model.widht=64", "model.width"),
        ("--config.modle.width=64", "model.width"),
        ("--config.optimizer.learning_rte=1", "optimizer.learning_rate"),
        ("--config.btach_size=8", "batch_size"),
    ],
)
def test_misspelt_key_names_the_nearest_one(argument, hint):
    with pytest.raises(config_lib.ConfigError, match=hint):
        config_lib.check_overrides(base.get_config(), ["prog", argument])


def test_section_instead_of_field_lists_its_fields():
    with pytest.raises(config_lib.ConfigError, match=r"parallel\.mapping"):
        config_lib.check_overrides(base.get_config(), ["--config.parallel=pmap"])


def test_right_keys_and_other_flags_pass():
    arguments = ["--config.model.width=64", "--config=x.py", "--workdir", "d", "config.no=1"]
    config_lib.check_overrides(base.get_config(), arguments)


def parsed(monkeypatch, name, *arguments):
    """config.model of a config file with these arguments of the command line."""
    argv = ["prog", *arguments]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks
    config = config_lib.load_file(ROOT / "configs" / f"{name}.py")
    config_lib.check_overrides(config, argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values(argv)
    return values.config.model


@pytest.mark.parametrize("name", ["arbex_synthetic", "arbex_rafdb", "poster_v2_rafdb"])
@pytest.mark.parametrize("value", [None, False, True, {"anchors": 4}])
def test_balancing_is_switched_by_one_argument(monkeypatch, name, value):
    model = parsed(monkeypatch, name, f"--config.model.reliability={value}")
    assert model.reliability == value


def test_every_setting_of_arbex_is_an_argument(monkeypatch):
    model = parsed(
        monkeypatch,
        "arbex_synthetic",
        "--config.model.reliability.detach_confidence=True",
        "--config.model.reliability.ramp_steps=7",
        "--config.model.reduction=32",
        "--config.model.backbone.dims=(16,32,64)",
    )
    assert model.reliability.detach_confidence is True and model.reliability.ramp_steps == 7
    assert model.reliability.anchors == 10
    assert model.reduction == 32 and model.backbone.dims == (16, 32, 64)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("arbex_synthetic", ["reliability.anchor=4"], "did you mean 'model.reliability.anchors'"),
        ("arbex_synthetic", ["reliability=None", "reliability.anchors=4"], "not both"),
        ("arbex_synthetic", ["backbone=None"], "is a section"),
        ("poster_v2_rafdb", ["reliability.anchors=4"], "reliability=\"{'anchors': VALUE}\""),
    ],
)
def test_arguments_about_balancing_that_cannot_work(monkeypatch, name, arguments, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        parsed(monkeypatch, name, *(f"--config.model.{argument}" for argument in arguments))


def defaults(constructor, leave_out):
    parameters = inspect.signature(constructor.__init__).parameters
    common = {"self", "rngs", "dtype", "param_dtype", "axis_name", "n_expression", *leave_out}
    return {name: p.default for name, p in parameters.items() if name not in common}


def test_configs_list_all_arguments_of_arbex_with_their_defaults():
    """Of the part and of the backbone; of the model what its name stands for."""
    assert base.reliability().get().to_dict() == SETTINGS
    assert base.poster() == defaults(Poster, {"regression", "reliability"})
    for file in (arbex_rafdb, arbex_synthetic, arbex_official_rafdb):
        config = file.get_config()
        found = models.entry(config.model.name)
        wanted = defaults(found.constructor, ()) | found.preset
        given = {k: v for k, v in config.model.to_dict().items() if k in wanted}
        settings = wanted["reliability"]
        wanted["reliability"] = SETTINGS | ({} if settings is True else settings)
        wanted["backbone"] = base.poster() | (wanted["backbone"] or {})
        assert given == wanted, file.__name__
    section = poster_v2_rafdb.get_config().model.to_dict()
    wanted = base.poster() | {"regression": False, "reliability": None}
    assert {k: v for k, v in section.items() if k in wanted} == wanted


def test_a_run_from_before_configs_listed_all_arguments_still_fits(tmp_path):
    config = arbex_synthetic.get_config()
    config_lib.claim_workdir(tmp_path, config)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    recorded = json.loads((tmp_path / "config.json").read_text())
    model = recorded["model"]
    for name in ("reduction", "hidden", "dropout", "backbone"):
        del model[name]
    model["reliability"] = {"anchors": 10, "delta": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    config_lib.check_workdir(tmp_path, config)
    config.model.reliability.heads = 2
    config.model.backbone.embedding = 64
    expected = r"backbone.embedding: there 128, now 64\n.*reliability.heads: there 4, now 2"
    with pytest.raises(config_lib.ConfigError, match=expected):
        config_lib.check_workdir(tmp_path, config)
    config.model.reliability = None
    with pytest.raises(config_lib.ConfigError, match=r"model.reliability: there .*, now None"):
        config_lib.check_workdir(tmp_path, config)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "quickstart.py").write_text("")
    with pytest.raises(config_lib.ConfigError, match=r"quickstart\.py"):
        config_lib.load_file(tmp_path / "quikstart.py")
    with pytest.raises(config_lib.ConfigError, match="get_config"):
        config_lib.load_file(tmp_path / "quickstart.py")


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
    with pytest.raises(config_lib.ConfigError, match="neither more nor less"):
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
    with pytest.raises(config_lib.ConfigError, match="no workdir"):
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
