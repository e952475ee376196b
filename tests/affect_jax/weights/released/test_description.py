"""Mean, deviation and class names of converted networks, and where they are known from."""

import json

import numpy as np
import pytest

from affect_jax import convert
from affect_jax.weights import model_dir
from affect_jax.weights.released import convert as convert_lib
from affect_jax.weights.released import description
from affect_jax.weights.released.files import Weights
from affect_jax.weights.released.spec import IMAGENET_MEAN, IMAGENET_STD
from tests.affect_jax.weights.released import test_vit as vit

HALF = (0.5, 0.5, 0.5)
NAMES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "x", "y", "z"]
TIMM = ("cls_token", "patch_embed.proj.weight", "head.weight")
HUGGING_FACE = ("vit.embeddings.patch_embeddings.projection.weight",)


def decide(tmp_path, names=TIMM, file="w.pth", entry="", architecture="vit_b16", given=None):
    weights = Weights({name: np.zeros(1) for name in names}, entry)
    released = convert_lib.release(architecture)
    hub = description.read_hub_files(tmp_path / file)
    return description.preprocessing_of(released, {}, tmp_path / file, weights, hub, given)


@pytest.mark.parametrize(
    ("clues", "mean", "certain"),
    [
        ({}, HALF, False),
        ({"names": HUGGING_FACE}, HALF, False),
        ({"names": ("embedding/kernel",), "file": "ViT-B_16.npz"}, HALF, True),
        ({"file": "vit_base_patch16_224.augreg_in21k.pth"}, HALF, True),
        ({"file": "deit_base_patch16_224-b5f2ef4d.pth", "entry": "model"}, IMAGENET_MEAN, True),
        ({"file": "DeiT3_base.pth"}, IMAGENET_MEAN, True),
        ({"file": "dino_vitbase16_pretrain.pth"}, IMAGENET_MEAN, True),
        ({"file": "mae_pretrain_vit_base.pth"}, IMAGENET_MEAN, True),
        ({"entry": "teacher"}, IMAGENET_MEAN, True),
        ({"entry": "student"}, IMAGENET_MEAN, True),
        ({"architecture": "resnet18"}, IMAGENET_MEAN, True),
        ({"architecture": "emonet"}, (0, 0, 0), True),
        ({"architecture": "ir50", "file": "deit.pth"}, IMAGENET_MEAN, True),
    ],
)
def test_by_what_a_file_tells(tmp_path, clues, mean, certain):
    made, how = decide(tmp_path, **clues)
    assert made.mean == mean and how.certain is certain and how.reason
    assert made.std == {HALF: HALF, IMAGENET_MEAN: IMAGENET_STD, (0, 0, 0): (1, 1, 1)}[mean]


@pytest.mark.parametrize(
    ("file", "content", "fit", "margin"),
    [
        ("config.json", {"pretrained_cfg": {"crop_pct": 0.875}}, "cover", 32 / 224),
        ("config.json", {"pretrained_cfg": {"crop_pct": 0.9}}, "cover", 1 / 9),
        ("config.json", {"pretrained_cfg": {"crop_pct": 1.0, "crop_mode": "squash"}}, "stretch", 0),
        ("config.json", {"pretrained_cfg": {"crop_pct": 1.0, "crop_mode": "border"}}, "stretch", 0),
        ("config.json", {"pretrained_cfg": {"crop_pct": 0}}, "stretch", 0),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}, "stretch", 0),
        ("preprocessor_config.json", {"size": 224}, "stretch", 0),
        (
            "preprocessor_config.json",
            {"size": 256, "crop_size": 224, "do_center_crop": True},
            "cover",
            32 / 224,
        ),
        (
            "preprocessor_config.json",
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
            },
            "cover",
            32 / 224,
        ),
    ],
)
def test_how_images_are_cut_is_read_from_the_files(tmp_path, file, content, fit, margin):
    write(tmp_path / file, content)
    made, _ = decide(tmp_path)
    assert made.crop == "whole" and made.crop_scale == 0
    assert (made.fit, made.margin) == (fit, pytest.approx(margin))


def test_each_release_has_its_crop():
    seen = {name: convert_lib.release(name).preprocessing for name in convert_lib.architectures()}
    assert seen["emonet"].crop_scale == 20 / 11 and seen["emonet"].crops_faces
    assert seen["fan"].face_scale == pytest.approx(400 / 195)
    assert seen["fan"].face_shift == (0, -0.12)
    for name in ("poster_v2", "arbex", "ir50", "mobilefacenet"):
        assert (seen[name].crop, seen[name].fit, seen[name].margin) == ("whole", "stretch", 0)
    assert (seen["resnet18"].fit, seen["resnet18"].margin) == ("cover", pytest.approx(1 / 7))
    wide = np.arange(300, dtype=np.uint8)[None, :, None] * np.ones((200, 1, 3), np.uint8)
    frame = seen["resnet18"].framing.frame(*wide.shape[:2])
    assert (frame.width, frame.height) == (200, 200)


def test_descriptions_next_to_the_file(tmp_path):
    write(tmp_path / "config.json", {"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}})
    made, how = decide(tmp_path, file="dino.pth")
    assert made.mean == (0.1,) * 3 and "pretrained_cfg in config.json" in how.reason
    own = {"image_mean": [0.3] * 3, "image_std": [0.4] * 3, "rescale_factor": 1 / 255}
    write(tmp_path / "preprocessor_config.json", own)
    made, how = decide(tmp_path)
    assert made.mean == (0.3,) * 3 and made.std == (0.4,) * 3 and made.scale == 255
    assert "preprocessor_config.json" in how.reason and how.certain
    write(tmp_path / "preprocessor_config.json", own | {"do_normalize": False})
    assert decide(tmp_path)[0].mean == (0, 0, 0) and decide(tmp_path)[0].std == (1, 1, 1)
    write(tmp_path / "preprocessor_config.json", own | {"rescale_factor": 1 / 127.5})
    assert decide(tmp_path)[0].scale == 127.5
    given = description.given_normalisation((0, 0, 0.5), (1, 1, 1))
    made, how = decide(tmp_path, given=given)
    assert made.mean == (0, 0, 0.5) and made.scale == 255 and how.reason == "given"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"image_mean": 0.5, "image_std": [1]}'])
def test_other_files_of_the_same_name_are_passed_over(tmp_path, content):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(content)
    made, how = decide(tmp_path)
    assert made.mean == HALF and not how.certain
    assert description.read_hub_files(tmp_path / "w.pth").class_names == ()


def test_the_type_of_a_hugging_face_model(tmp_path):
    write(tmp_path / "config.json", {"model_type": "deit"})
    assert decide(tmp_path, names=HUGGING_FACE)[0].mean == IMAGENET_MEAN


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"1": "b", "0": "a", "2": "c"}}, ("a", "b", "c")),
        ({"id2label": {str(i): f"{i}" for i in range(12)}}, tuple(map(str, range(12)))),
        ({"label_names": ["a", "b"]}, ("a", "b")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, ()),
        ({"id2label": {"0": "crane", "1": "crane", "2": "x"}}, ("crane (0)", "crane (1)", "x")),
        ({"id2label": {"0": "a", "2": "b"}}, ()),
        ({"id2label": {"a": "0"}}, ()),
        ({}, ()),
    ],
)
def test_class_names_next_to_the_file(tmp_path, config, names):
    write(tmp_path / "config.json", config)
    assert description.read_hub_files(tmp_path / "w.pth").class_names == names


def run(tmp_path, source, *options):
    output = tmp_path / "out"
    arguments = ["--architecture=vit_ti16", f"--source={source}", f"--output={output}", *options]
    status = convert.main(arguments)
    return status, model_dir.read_record(output) if status == 0 else None


def test_the_command_tells_what_it_recorded(tmp_path, capsys):
    path = vit.write(tmp_path / "model.safetensors", vit.hugging_face(vit.arrays(vit.source())))
    write(tmp_path / "config.json", {"id2label": {str(i): n for i, n in enumerate(NAMES)}})
    own = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    write(tmp_path / "preprocessor_config.json", own)
    status, record = run(tmp_path, path)
    out, err = capsys.readouterr()
    assert status == 0 and "warning" not in err
    assert "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225): preprocessor_config" in out
    assert f"classes: {', '.join(NAMES)}: config.json" in out
    assert record["class_names"] == NAMES
    assert tuple(record["preprocessing"]["mean"]) == IMAGENET_MEAN


def test_the_command_takes_what_it_is_given(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    state = vit.timm(vit.arrays(vit.source()))
    tensors = {f"net.{k}": torch.tensor(np.ascontiguousarray(v)) for k, v in state.items()}
    ema = {k: v + 1 for k, v in tensors.items()}
    torch.save({"model": tensors, "model_ema": ema}, tmp_path / "w.pth")
    common = ("--strip_prefix=net.", "--classes=" + ",".join(NAMES))
    status, record = run(tmp_path, tmp_path / "w.pth", *common)
    out, err = capsys.readouterr()
    assert status == 0 and "the entry model_ema; there is model too" in out
    assert "warning: nothing tells the mean" in err and record["class_names"] == NAMES
    bias = model_dir.read_arrays(tmp_path / "out")["params"]["head/bias"]
    np.testing.assert_allclose(bias, state["head.bias"] + 1, rtol=1e-6)
    numbers = ("--mean=0.1,0.2,0.3", "--std=0.4,0.5,0.6", "--entry=model")
    status, record = run(tmp_path, tmp_path / "w.pth", *common, *numbers)
    assert status == 0 and "warning" not in capsys.readouterr().err
    assert record["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    assert record["preprocessing"]["std"] == [0.4, 0.5, 0.6]
    bias = model_dir.read_arrays(tmp_path / "out")["params"]["head/bias"]
    np.testing.assert_allclose(bias, state["head.bias"], rtol=1e-6)
    for option, message in {
        "--classes=affectnet8": "names 8 classes",
        "--classes=a,a": "must be distinct",
        "--mean=0.5,0.5,0.5": "belong together",
    }.items():
        assert run(tmp_path, tmp_path / "w.pth", "--strip_prefix=net.", option)[0] == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (1, 1, 1), "--mean=0.5,0.5"),
        ((123, 117, 104), (58, 57, 57), "divide those for 0 to 255 by 255"),
        ((0, 0, 0), (0, 1, 1), "a deviation is above 0"),
        ((float("nan"), 0, 0), (1, 1, 1), "--mean=nan,0,0"),
        ((), (1, 1, 1), "belong together"),
    ],
)
def test_numbers_that_cannot_be(mean, std, message):
    with pytest.raises(description.UserError, match=message):
        description.given_normalisation(mean, std)


def test_a_distilled_deit_is_named(tmp_path):
    state = vit.timm(vit.arrays(vit.source())) | {"dist_token": np.zeros((1, 1, 192))}
    with pytest.raises(description.UserError, match="a distilled DeiT"):
        convert_lib.build_model(convert_lib.release("vit_ti16"), state)
