"""From official state dicts, in all the shapes that people save them, to models."""

import subprocess
import sys

import numpy as np
import pytest

import affect_jax
from affect_jax import convert, models
from affect_jax.errors import UserError
from affect_jax.models.state import take_apart
from affect_jax.weights import model_dir
from affect_jax.weights.released import convert as convert_lib
from affect_jax.weights.released import files

POSTER = {"input_size": 16, "image_width": 4, "image_stages": (1, 2, 1), "landmark_width": 2,
          "landmark_stages": (1, 0, 2), "dims": (2, 4, 8), "windows": (4, 2, 1),
          "heads": (1, 2, 2), "embedding": 16, "vit_depth": 2}  # fmt: skip
SMALL = {
    "arbex": {**POSTER, "n_expression": 0},
    "emonet": {"width": 16, "depth": 1, "stacks": 2, "landmarks": 5, "emotion_blocks": 1,
               "n_expression": 5},
    "fan": {"width": 16, "depth": 1, "stacks": 2, "landmarks": 5},
    "ir50": {"width": 4, "stage_sizes": (1, 2, 1)},
    "mobilefacenet": {"width": 4, "stage_sizes": (1, 0, 2)},
    "poster_v2": {**POSTER, "n_expression": 7},
    "resnet18": {"width": 4, "n_expression": 7},
    "vit_ti16": {"depth": 2, "n_expression": 7, "image_size": 32},
}  # fmt: skip


def official_state(architecture, **arguments):
    """A random state dict with the official names and layouts, and the model it came from."""
    released = convert_lib.release(architecture)
    arguments = {**SMALL[architecture], **arguments}
    model = models.create(released.model, **arguments)
    arrays = model_dir.arrays_of(model)
    places = convert_lib.official_places(
        released.modules(arguments), arrays, released.entries(arguments)
    )
    generator = np.random.default_rng(0)
    state = {}
    for name, (part, path) in places.items():
        shape = arrays[part][path].shape
        value = generator.random(shape, np.float32)
        if path.endswith("/kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        state[name] = value
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = np.array(3)
    return state


@pytest.fixture(scope="module")
def emonet():
    return official_state("emonet")


@pytest.mark.parametrize("architecture", SMALL)
def test_every_array_arrives_in_its_place(architecture):
    state = official_state(architecture)
    released = convert_lib.release(architecture)
    built = convert_lib.build_model(released, state)
    assert built.arguments.items() >= SMALL[architecture].items()
    arrays = model_dir.arrays_of(built.model)
    places = convert_lib.official_places(
        released.modules(built.arguments), arrays, released.entries(built.arguments)
    )
    assert len(places) == len(arrays["params"]) + len(arrays["stats"])
    for name, (part, path) in places.items():
        value = np.asarray(arrays[part][path])
        if path.endswith("/kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        np.testing.assert_array_equal(value, state[name])


def test_attention_classes_and_sizes_are_read_off_the_shapes():
    state = official_state("emonet", attention=False, stacks=3, n_expression=8, emotion_blocks=2)
    arguments = convert_lib.release("emonet").infer(state)
    assert arguments == {
        "width": 16, "depth": 1, "stacks": 3, "landmarks": 5, "n_expression": 8,
        "attention": False, "emotion_blocks": 2, "pool": "max",
    }  # fmt: skip
    assert convert_lib.release("fan").infer(official_state("fan"))["pool"] == "avg"


def test_what_official_networks_never_use_is_skipped():
    dead = {"ir50": ("output_layer.3.weight",), "mobilefacenet": ("output_layer.linear.weight",)}
    for scheme, index in (
        ("VIT", "attn2.relative_position_index"),
        ("vit", "attns.1.index_relative"),
    ):
        architecture = {"VIT": "poster_v2", "vit": "arbex"}[scheme]
        dead[architecture] = (index, f"{scheme}.CON1.weight", f"{scheme}.blocks.1.conv.bias")
    for architecture, names in dead.items():
        state = official_state(architecture) | {name: np.zeros(2, np.float32) for name in names}
        converted = convert_lib.build_model(convert_lib.release(architecture), state)
        assert converted.skipped.keys() == set(names)


def test_units_counted_through_are_given_to_their_stages():
    """As recognisers with an IR-50 are published, with a fourth stage."""
    state = official_state("ir50")
    flat, number = {}, {}
    for name, value in state.items():
        stage, _, rest = name.partition(".")
        if stage.startswith("body"):
            unit, _, rest = rest.partition(".")
            name = f"body.{number.setdefault((stage, unit), len(number))}.{rest}"
        flat[name] = value
    flat["body.4.res_layer.1.weight"] = np.zeros((32, 16, 3, 3), np.float32)
    assert len(number) == 4
    converted = convert_lib.build_model(convert_lib.release("ir50"), flat)
    assert converted.arguments["stage_sizes"] == (1, 2, 1)
    assert converted.skipped.keys() == {"body4.0.res_layer.1.weight"}
    model = convert_lib.build_model(convert_lib.release("ir50"), state).model
    for path, value in take_apart(model)[1].items():
        np.testing.assert_array_equal(take_apart(converted.model)[1][path], value)


def test_differences_are_listed_by_kind_and_counted(emonet):
    state = dict(emonet)
    del state["emo_fc_2.0.bias"], state["m0.b1_1.bn2.running_mean"]
    state["emo_fc_2.9.bias"] = np.zeros(3, np.float32)
    state["conv3.conv1.weight"] = np.zeros((4, 8, 5, 5), np.float32)
    state |= {f"extra.{i}": np.zeros(1, np.float32) for i in range(20)}
    with pytest.raises(UserError) as raised:
        convert_lib.build_model(convert_lib.release("emonet"), state, where="x.pth")
    message = str(raised.value)
    assert message.startswith("x.pth does not fit emonet (width=16, depth=1, stacks=2,")
    assert "2 missing:\n  m0.b1_1.bn2.running_mean (8,)" in message.replace(
        "  emo_fc_2.0.bias (8,)\n", ""
    )
    assert "21 unexpected:\n  emo_fc_2.9.bias (3,)" in message
    assert "... and 11 more" in message
    assert (
        "1 of another shape:\n  conv3.conv1.weight: (4, 8, 5, 5), the model has (4, 8, 3, 3)"
        in message
    )


@pytest.mark.parametrize("architecture", convert_lib.architectures())
def test_a_foreign_state_dict_is_refused(architecture):
    state = {"layers.0.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(UserError, match=f"is not a checkpoint of {architecture} .*layers.0.weight"):
        convert_lib.build_model(convert_lib.release(architecture), state)


def test_a_deeper_resnet_is_named():
    state = {
        "conv1.weight": np.zeros((64, 3, 7, 7), np.float32),
        "layer1.0.conv3.weight": np.zeros((256, 64, 1, 1), np.float32),
        "fc.weight": np.zeros((1000, 2048), np.float32),
    }
    with pytest.raises(UserError, match="only ResNet-18 can be read"):
        convert_lib.build_model(convert_lib.release("resnet18"), state)


def save(path, state, wrap=None):
    """Writes `state` in the format that the suffix of `path` says."""
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        numpy = pytest.importorskip("safetensors.numpy")
        numpy.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, path)
    else:
        torch = pytest.importorskip("torch")
        state = {k: torch.tensor(v) for k, v in state.items()}
        torch.save({wrap: state, "epoch": 7} if wrap else state, path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("w.pth", None),
        ("w.pth", "state_dict"),
        ("w.pt", "model"),
        ("w.npz", None),
        ("w.safetensors", None),
    ],
)
def test_files_of_every_kind_give_the_same_state(tmp_path, emonet, name, wrap, prefix):
    state = {prefix + key: value for key, value in emonet.items()}
    save(tmp_path / name, state, wrap)
    read = files.read_weights(tmp_path / name)
    assert read.keys() == emonet.keys()
    for key, value in emonet.items():
        np.testing.assert_array_equal(read[key], value)


def test_half_precision_is_widened(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float16)}
    torch.save(state, tmp_path / "half.pth")
    read = files.read_weights(tmp_path / "half.pth")
    assert read["a"].dtype == read["b"].dtype == np.float32


@pytest.mark.parametrize("name", ["w.pth", "w.npz", "w.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_a_clear_error(tmp_path, emonet, name, part):
    save(tmp_path / name, emonet)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError, match=f"{name} cannot be read as a .* weights file") as raised:
        files.read_weights(tmp_path / name)
    if part and not name.endswith("safetensors"):
        assert str(raised.value).endswith("the zip archive has no end")


def test_other_unreadable_sources(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match="does not exist"):
        files.read_weights(tmp_path / "absent.pth")
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"ends in '.h5'; weights are read from .pth"):
        files.read_weights(tmp_path / "weights.h5")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"text.pth cannot be read"):
        files.read_weights(tmp_path / "text.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"module.pth cannot be read"):
        files.read_weights(tmp_path / "module.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list instead of a state dict"):
        files.read_weights(tmp_path / "list.pth")
    torch.save({"weight": torch.zeros(3), "optimizer": {"lr": 1}}, tmp_path / "mixed.pth")
    with pytest.raises(UserError, match="'optimizer' is a dict, not an array"):
        files.read_weights(tmp_path / "mixed.pth")
    torch.save({"weight": torch.full((3,), torch.nan)}, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="'weight' has values that are not finite"):
        files.read_weights(tmp_path / "nan.pth")


def test_without_torch_the_message_says_what_to_install(tmp_path, monkeypatch, capsys):
    (tmp_path / "w.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("emonet", tmp_path / "w.pth", tmp_path / "out") == 1
    assert 'pip install "affect_jax[convert]"' in capsys.readouterr().err


def run(architecture, source, output):
    options = {"architecture": architecture, "source": source, "output": output}
    return convert.main([f"--{key}={value}" for key, value in options.items()])


def test_the_command_writes_a_model_that_loads(tmp_path, emonet, capsys):
    np.savez(tmp_path / "w.npz", **emonet)
    assert run("emonet", tmp_path / "w.npz", tmp_path / "out") == 0
    assert "emofan(width=16" in capsys.readouterr().out
    loaded = affect_jax.load(tmp_path / "out").loaded
    assert loaded.class_names == ("neutral", "happy", "sad", "surprise", "anger")
    assert loaded.preprocessing.image_size == 256
    assert loaded.provenance["source"] == "w.npz"
    assert "NC-ND" in loaded.provenance["licence"]
    # Once more: a model directory is replaced, and nothing temporary is left.
    assert run("emonet", tmp_path / "w.npz", tmp_path / "out") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "w.npz"]


def test_the_command_refuses_to_overwrite_other_things(tmp_path, emonet, capsys):
    np.savez(tmp_path / "w.npz", **emonet)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    assert run("emonet", tmp_path / "w.npz", tmp_path / "photos") == 1
    assert "name a new directory" in capsys.readouterr().err
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"x"


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, emonet, capsys):
    state = dict(emonet)
    del state["conv1.bias"]
    np.savez(tmp_path / "w.npz", **state)
    assert run("emonet", tmp_path / "w.npz", tmp_path / "out") == 1
    assert "1 missing:\n  conv1.bias (4,)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


def test_an_unknown_architecture_is_answered_with_those_there_are(tmp_path, capsys):
    assert run("vgg", tmp_path / "w.npz", tmp_path / "out") == 1
    assert "no converter for 'vgg'; available now: arbex, emonet, fan, " in capsys.readouterr().err


def test_importing_the_package_stays_light():
    code = "import sys, affect_jax; print('jax' in sys.modules or 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
