"""Fields of the command line that depend on others: they act, or are refused by name."""

import subprocess
import sys

import absl.flags
import pytest
from flax import nnx
from ml_collections import config_flags

from affect_jax import models, overrides, systems
from affect_jax.config import ConfigError
from affect_jax.models.reliability_settings import from_section, to_section
from configs import base
from tests.affect_jax import tiny


def parsed(*flags, file="quickstart"):
    """The config of a file with the flags in it, parsed as `affect_jax.main` does."""
    argv = ["main", *flags]
    config = overrides.load(tiny.ROOT / "configs" / f"{file}.py", argv)
    values = absl.flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    values(argv)
    return values.config


def settled(*flags, mode="train", file="quickstart"):
    config = parsed(*flags, file=file)
    overrides.settle(config, ["main", "--mode", mode, *flags], mode)
    return config


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("model.widht=64", "model.width"),
        ("modle.width=64", "model.width"),
        ("optimizer.learning_rte=1", "optimizer.learning_rate"),
        ("btach_size=8", "batch_size"),
        ("parallel=pmap", r"is a section.*parallel\.mapping"),
        ("model.reliability=None", r"is a section.*model\.reliability\.enabled"),
        ("model.reliability.anchor=4", "did you mean 'model.reliability.anchors'"),
        ("model.name=resnet81", "did you mean 'resnet18'"),
    ],
)
def test_a_field_that_does_not_exist_names_the_nearest(argument, hint):
    with pytest.raises(ConfigError, match=hint):
        parsed(f"--config.{argument}")


@pytest.mark.parametrize(
    "file", ["quickstart", "resnet18_faces", "poster_v2_rafdb", "vit_se_synthetic", "arbex_faces"]
)
def test_balancing_is_a_section_of_every_config_whose_model_can_have_it(file):
    enabled = "--config.model.reliability.enabled=True"
    section = parsed(enabled, "--config.model.reliability.anchors=4", file=file).model.reliability
    assert section.to_dict() == to_section({"anchors": 4})
    off = parsed("--config.model.reliability.enabled=False", file=file).model.reliability
    assert from_section(off.to_dict()) is None


def test_every_argument_of_a_model_is_a_field():
    model = parsed(
        "--config.model.reduction=32",
        "--config.model.backbone.dims=(16,32,64)",
        "--config.model.reliability.detach_confidence=True",
        file="arbex_synthetic",
    ).model
    assert model.reduction == 32 and model.backbone.dims == (16, 32, 64)
    assert model.reliability.detach_confidence is True and model.reliability.anchors == 10


@pytest.mark.parametrize(
    ("file", "name", "system"),
    [
        ("quickstart", "resnet18", "classifier"),
        ("quickstart", "vit_ti16", "vit_se"),
        ("quickstart", "arbex_tiny", "arbex"),
        ("quickstart", "fan", "fan"),
        ("vit_se_synthetic", "emofan", "emofan"),
        ("arbex_synthetic", "poster_v2_tiny", "classifier"),
        ("resnet18_faces", "resnet34", "emofan"),  # one architecture: the system stays
    ],
)
def test_another_model_needs_no_other_file(file, name, system):
    """It has its own fields and system; its program is traced as a run would."""
    before = parsed(file=file)
    config = settled(f"--config.model.name={name}", "--config.data.image_size=64", file=file)
    assert config.system == system and config.model.name == name
    assert config.model.keys() == base.model(name).keys()
    assert config.model.mean == before.model.mean and config.model.dtype == before.model.dtype
    made = systems.create(
        config,
        class_names=tuple("abc"),
        has=frozenset({"expression", "valence_arousal", "landmarks"}),
        class_counts=(1, 1, 1),
    )
    assert made.phases(100)
    nnx.eval_shape(lambda: models.create(name, **made.model_arguments()))


def test_fields_of_the_chosen_model_act_and_others_are_refused():
    given = ("--config.model.name", "resnet18", "--config.model.regression=True")
    config = parsed(*given, "--config.model.width=16")
    assert config.model.regression is True and config.model.width == 16
    assert parsed(*given).model.width == 64  # not the width of the file's EmoFAN
    with pytest.raises(ConfigError, match="no such field of the model 'resnet18'"):
        parsed(*given, "--config.model.emotion_blocks=2")
    kept = parsed("--config.model.name=vit_s16", file="vit_se_synthetic").model
    assert kept.depth == 4 and kept.se is True
    named = parsed("--config.model.name=arbex", file="arbex_synthetic").model
    assert named.to_dict() | {"mean": 0, "std": 0} == base.model("arbex").to_dict() | {
        "mean": 0,
        "std": 0,
    }
    own = parsed("--config.model.name=resnet18", "--config.system=emofan")
    assert own.system == "emofan"
    system = systems.create(own, class_names=("a",), has=frozenset(), class_counts=(1,))
    with pytest.raises(ConfigError, match="'resnet18' has no landmark trunk"):
        system.phases(100)


@pytest.mark.parametrize(
    ("flag", "mode", "allowed"),
    [
        ("eval.split=validation", "train", "--mode=eval"),
        ("eval.checkpoint=latest", "sweep", "--mode=eval"),
        ("eval.features=f.npz", "train", "--mode=eval"),
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
    [
        *[("manifest", "manifest"), ("folder", "folder"), ("dataset", "tfds")],
        *[("data_dir", "tfds"), ("features", "features")],
    ],
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


@pytest.mark.parametrize(
    "key",
    ["data.image_size=9", "data.augment_overrides.flip=0.5", "data.cache=memory", "model.mean=0"],
)
def test_fields_of_images_on_features(key):
    name = key.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"--config\.{name} has no effect.*it is for images"):
        settled(f"--config.{key}", file="linear_probe")
    with pytest.raises(ConfigError, match="has no effect"):
        settled("--config.data.features=f.npz", "--config.data.image_size=9")


def test_fields_of_an_evaluation_where_features_are_written():
    file = "--config.eval.features=f.npz"
    with pytest.raises(ConfigError, match=r"eval\.split has no effect with --config.eval.features"):
        settled(file, "--config.eval.split=train", mode="eval")
    config = settled(file, "--config.eval.checkpoint=latest", mode="eval")
    assert config.eval.features == "f.npz"


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
        (["--workdir=x", "--heartbeat_timeout=5"], 1, "5 is not integer >= 10"),
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
