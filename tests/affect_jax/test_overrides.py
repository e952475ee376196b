"""Fields of the command line that depend on others: they act, or are refused by name."""

import subprocess
import sys

import pytest

from affect_jax import config as config_lib
from affect_jax import overrides
from affect_jax.config import ConfigError
from tests.affect_jax import tiny


def settled(*flags, mode="train", file="quickstart"):
    config = config_lib.load_file(tiny.ROOT / "configs" / f"{file}.py")
    for flag in flags:
        key, _, value = flag.removeprefix("--config.").partition("=")
        old = overrides._get(config, key)
        overrides._set(config, key, value if old is None else type(old)(value))
    overrides.settle(config, ["main", "--mode", mode, *flags], mode)
    return config


@pytest.mark.parametrize(
    ("flag", "mode", "allowed"),
    [
        ("eval.split=validation", "train", "--mode=eval"),
        ("eval.checkpoint=latest", "sweep", "--mode=eval"),
        ("sweep.rows=a", "train", "--mode=sweep"),
        ("sweep.seeds=1", "crossval", "--mode=sweep"),
        ("crossval.folds=3", "eval", "--mode=crossval or --mode=sweep"),
    ],
)
def test_fields_of_other_modes_are_refused(flag, mode, allowed):
    with pytest.raises(
        ConfigError, match=f"--config.{flag.split('=')[0]} has no effect.*{allowed}"
    ):
        settled(f"--config.{flag}", mode=mode)


def test_fields_of_the_own_mode_pass():
    assert settled("--config.eval.split=validation", mode="eval").eval.split == "validation"
    assert settled("--config.crossval.folds=3", mode="sweep").crossval.folds == 3


@pytest.mark.parametrize(
    ("key", "source"),
    [("manifest", "manifest"), ("folder", "folder"), ("dataset", "tfds"), ("data_dir", "tfds")],
)
def test_a_place_brings_its_source_along(key, source):
    assert settled(f"--config.data.{key}=X").data.source == source
    with pytest.raises(ConfigError, match=f"data.{key} has no effect.*data.source=synthetic"):
        settled(f"--config.data.{key}=X", "--config.data.source=synthetic")
    assert settled(f"--config.data.{key}=").data.source == "synthetic"


def test_places_of_two_sources_are_refused():
    with pytest.raises(ConfigError, match="places of different sources"):
        settled("--config.data.manifest=a.csv", "--config.data.folder=b")
    both = ("--config.data.dataset=raf_db", "--config.data.data_dir=DATA")
    assert settled(*both).data.source == "tfds"


def test_synthetic_faces_that_nobody_draws():
    with pytest.raises(ConfigError, match="no synthetic face is drawn"):
        settled("--config.data.synthetic.num_train=9", file="resnet18_faces")
    assert settled("--config.data.synthetic.num_train=9", file="emofan_faces")


def test_epochs_count_where_they_are_given():
    config = settled("--config.num_epochs=3.0")
    assert config.num_steps is None and config.num_epochs == 3
    config = settled("--config.num_epochs=3.0", "--config.num_steps=7")
    assert config.num_steps == 7
    assert settled("--config.optimizer.warmup_epochs=2.0").optimizer.warmup_steps == 0
    assert settled("--config.seed=3").num_steps is not None


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--workdir=x", "--config.eval.split=test"], 1, "--config.eval.split has no effect"),
        (["--mode=eval"], 1, "--config and --workdir are needed"),
        # A model directory is evaluated without a run.
        (["--mode=eval", "--config.init_from=models/none"], 2, "is not a model directory"),
    ],
)
def test_the_command_settles_what_it_parsed(flags, status, message):
    argv = [sys.executable, "-m", "affect_jax.main", "--config=configs/quickstart.py", *flags]
    done = subprocess.run(argv, cwd=tiny.ROOT, capture_output=True, text=True)
    assert done.returncode == status and message in done.stderr


def test_given_fields():
    argv = [
        "x",
        "--config",
        "a.py",
        "--config.a.b=1",
        "-config.c",
        "2",
        "--config.a.b=3",
        "config.d",
    ]
    assert overrides.given_fields(argv) == ["a.b", "c"]
