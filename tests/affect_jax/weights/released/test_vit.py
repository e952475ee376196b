"""Vision transformers from files with timm's, Hugging Face's and the original JAX names."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import affect_jax
from affect_jax import convert, models
from affect_jax.errors import UserError
from affect_jax.models.state import take_apart
from affect_jax.models.vit import resize_positions
from affect_jax.weights.init_from import init_from
from affect_jax.weights.released import convert as convert_lib

ARGUMENTS = {"depth": 2, "n_expression": 10, "image_size": 32}
HEADS, WIDTH = 3, 192
SCHEMES = ("timm.pth", "timm.safetensors", "hugging_face.safetensors", "jax.npz")


@functools.cache
def source(**arguments):
    """A model whose every array is random."""
    model = models.create("vit_ti16", **(ARGUMENTS | arguments))
    blueprint, params, stats = take_apart(model)
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(0, 0.1, v.shape), v.dtype) for k, v in params.items()}
    built = blueprint.build(params, stats)
    built.eval()
    return built


def arrays(model):
    return {k: np.asarray(v) for k, v in take_apart(model)[1].items()}


def timm(ours):
    state = {"cls_token": ours["cls_token"], "pos_embed": ours["pos_embed"]}
    state["patch_embed.proj.weight"] = ours["patches/kernel"].transpose(3, 2, 0, 1)
    state["patch_embed.proj.bias"] = ours["patches/bias"]
    for path, value in ours.items():
        name = path.replace("attention/out", "attn.proj").replace("attention", "attn")
        name = name.replace("/", ".").replace("scale", "weight").replace("kernel", "weight")
        if path.startswith(("blocks", "norm", "head")):
            state[name] = value.T if path.endswith("kernel") else value
    return state


def hugging_face(ours):
    state = {}
    for name, value in timm(ours).items():
        if "attn.qkv" in name:
            block, leaf = name.split(".")[1], name.rsplit(".", 1)[1]
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                state[f"vit.encoder.layer.{block}.attention.attention.{part}.{leaf}"] = third
            continue
        for theirs, own in {
            "vit.embeddings.cls_token": "cls_token",
            "vit.embeddings.position_embeddings": "pos_embed",
            "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "attention.output.dense": "attn.proj",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
            "classifier": "head",
            "vit.encoder.layer": "blocks",
        }.items():
            name = name.replace(own, theirs)
        if name.startswith("norm."):
            name = "vit.layernorm" + name.removeprefix("norm")
        state[name] = value
    return state


def original(ours):
    state = {
        "cls": ours["cls_token"],
        "Transformer/posembed_input/pos_embedding": ours["pos_embed"],
        "embedding/kernel": ours["patches/kernel"],
        "embedding/bias": ours["patches/bias"],
    }
    for path, value in ours.items():
        if path.startswith(("head/", "norm/")):
            state[path.replace("norm/", "Transformer/encoder_norm/")] = value
        if not path.startswith("blocks/"):
            continue
        _, i, rest = path.split("/", 2)
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        if rest.startswith("attention/qkv"):
            for part, third in zip(("query", "key", "value"), np.split(value, 3, -1), strict=True):
                shape = (*third.shape[:-1], HEADS, WIDTH // HEADS)
                state[f"{attention}/{part}/{rest.rsplit('/', 1)[1]}"] = third.reshape(shape)
        elif rest == "attention/out/kernel":
            state[f"{attention}/out/kernel"] = value.reshape(HEADS, WIDTH // HEADS, WIDTH)
        else:
            rest = rest.replace("attention/out", "MultiHeadDotProductAttention_1/out")
            for own, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2"),
                                ("mlp/fc1", "MlpBlock_3/Dense_0"),
                                ("mlp/fc2", "MlpBlock_3/Dense_1")):  # fmt: skip
                rest = rest.replace(own, theirs)
            state[f"{block}/{rest}"] = value
    return state


def write(path, state):
    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(state, path)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.tensor(value) for name, value in state.items()}, path)
    return path


def checkpoint(folder, scheme, **changes):
    rewrite = {"timm": timm, "hugging_face": hugging_face, "jax": original}
    state = rewrite[scheme.split(".")[0]](arrays(source(**changes)))
    return write(folder / scheme, state)


def pictures(side=32):
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, side, side, 3)), jnp.float32)


def assert_equal_outputs(got, wanted, side=32):
    got.eval()
    for name, value in wanted(pictures(side)).items():
        np.testing.assert_allclose(got(pictures(side))[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_converted_file_gives_the_outputs_of_its_source(scheme, tmp_path, capsys):
    path = checkpoint(tmp_path, scheme)
    command = ["--architecture", "vit_ti16", "--source", str(path), "--output", str(tmp_path / "m")]
    assert convert.main(command) == 0
    assert "depth=2" in capsys.readouterr().out
    loaded = affect_jax.load(tmp_path / "m")
    batch = np.asarray(pictures())
    np.testing.assert_allclose(
        loaded.outputs(batch)["logits"], source()(batch)["logits"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_a_run_starts_from_a_file_with_a_new_head_and_its_own_parts(scheme, tmp_path):
    path = checkpoint(tmp_path, scheme)
    model = models.create("vit_ti16", depth=2, n_expression=7, se=True, image_size=48)
    fresh = arrays(model)
    report = init_from(model, path, classes=("a", "b", "c", "d", "e", "f", "g"))
    wanted = arrays(source())
    for name, value in arrays(model).items():
        if name.startswith(("head/", "se/")):
            np.testing.assert_array_equal(value, fresh[name])
        elif name == "pos_embed":
            resized = resize_positions(jnp.asarray(wanted[name]), (3, 3), 1)
            np.testing.assert_array_equal(value, resized)
        else:
            np.testing.assert_array_equal(value, wanted[name])
    told = str(report)
    assert "resized pos_embed: (1, 5, 192) to (1, 10, 192)" in told
    assert "skipped head/kernel: its classes are not known" in told
    assert {"se/reduce/kernel", "head/kernel"} <= set(report.missing)


def test_a_headless_file_and_the_pooler_of_hugging_face(tmp_path):
    state = hugging_face(arrays(source()))
    state = {k.removeprefix("vit."): v for k, v in state.items() if "classifier" not in k}
    state["pooler.dense.weight"] = np.zeros((WIDTH, WIDTH), np.float32)
    path = write(tmp_path / "headless.npz", state)
    model = models.create("vit_ti16", **ARGUMENTS)
    report = init_from(model, path)
    assert report.skipped == {"pooler.dense.weight": "the model has no use for it"}
    assert set(report.missing) == {"head/kernel", "head/bias"}
    assert_equal_outputs(without_head(model), without_head(source()))


def without_head(model):
    copy = nnx.clone(model)
    copy.head = None
    return copy


def test_mean_pooling_drops_the_class_token(tmp_path):
    model = models.create("vit_ti16", **ARGUMENTS, pool="mean")
    report = init_from(model, checkpoint(tmp_path, "jax.npz"))
    assert report.skipped["cls_token"] == "the model pools its patches"
    np.testing.assert_array_equal(model.pos_embed[...], arrays(source())["pos_embed"][:, 1:])


def test_an_unknown_entry_is_an_error_unless_allowed(tmp_path):
    state = original(arrays(source())) | {"pre_logits/kernel": np.zeros((4, 4), np.float32)}
    path = write(tmp_path / "old.npz", state)
    model = models.create("vit_ti16", **ARGUMENTS)
    before = arrays(model)
    with pytest.raises(UserError, match=r"1 unexpected:\n  pre_logits/kernel"):
        init_from(model, path)
    for name, value in arrays(model).items():
        np.testing.assert_array_equal(value, before[name])
    report = init_from(model, path, allow=("pre_logits",))
    assert "pre_logits/kernel" in report.skipped


def test_what_is_missing_is_named(tmp_path):
    state = original(arrays(source()))
    del state["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel"]
    path = write(tmp_path / "part.npz", state)
    with pytest.raises(UserError, match=r"(?s)blocks\.1\.attn\.qkv\.weight.*_1/query/kernel"):
        init_from(models.create("vit_ti16", **ARGUMENTS), path)


def test_fewer_blocks_than_the_file_are_an_error_unless_allowed(tmp_path):
    path = checkpoint(tmp_path, "jax.npz")
    model = models.create("vit_ti16", **(ARGUMENTS | {"depth": 1}))
    with pytest.raises(UserError, match=r"(?s)unexpected:\n  blocks/1/"):
        init_from(model, path)
    assert init_from(model, path, allow=("blocks/1",)).loaded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"patch_embed.proj.weight": np.zeros((384, 3, 16, 16))}, "not fit vit_s16"),
        (lambda s: s | {"patch_embed.proj.weight": np.zeros((192, 3, 32, 32))}, "not 16 x 16"),
        (lambda s: s | {"pos_embed": np.zeros((1, 8, 192))}, "form no square"),
        (lambda s: {"fc.weight": np.zeros((2, 2))}, "begin with fc.weight"),
    ],
)
def test_files_of_something_else(tmp_path, change, message):
    path = write(tmp_path / "other.npz", change(timm(arrays(source()))))
    with pytest.raises(UserError, match=message):
        init_from(models.create("vit_ti16", **ARGUMENTS), path)


def test_the_name_of_another_size():
    released = convert_lib.release("vit_s16")
    with pytest.raises(UserError, match="192 features, as vit_ti16 has, not 384"):
        convert_lib.build_model(released, timm(arrays(source())))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_truncated_files(scheme, tmp_path):
    path = checkpoint(tmp_path, scheme)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="truncated"):
        init_from(models.create("vit_ti16", **ARGUMENTS), path)


def test_heads_of_models_with_known_classes_follow_the_labels():
    names = ("anger", "happy", "sad")
    one = models.create("vit_ti16", depth=1, n_expression=3, image_size=32, regression=True)
    other = models.create("vit_ti16", depth=1, n_expression=3, image_size=32, regression=True)
    swapped = ("happiness", "anger", "sadness")
    report = init_from(other, one, classes=swapped, source_classes=names)
    head = arrays(one)["head/kernel"]
    np.testing.assert_array_equal(arrays(other)["head/kernel"], head[:, [1, 0, 2, 3, 4]])
    assert report.resized["head/kernel"] == "reordered, as made for anger, happy, sad"

    fresh = models.create(
        "vit_ti16", depth=1, n_expression=3, image_size=32, regression=True, seed=7
    )
    before = arrays(fresh)["head/kernel"]
    others = ("anger", "happy", "fear")
    report = init_from(fresh, one, classes=others, source_classes=names)
    after = arrays(fresh)["head/kernel"]
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    np.testing.assert_array_equal(after[:, 3:], head[:, 3:])
    assert report.resized["head/kernel"] == "valence and arousal alone: made for anger, happy, sad"

    bare = models.create("vit_ti16", depth=1, n_expression=3, image_size=32)
    report = init_from(bare, one, classes=others, source_classes=names)
    assert report.skipped["head/kernel"] == "made for anger, happy, sad"


def test_valence_and_arousal_survive_a_change_of_classes():
    arguments = {"width": 16, "depth": 1, "stacks": 1, "emotion_blocks": 1}
    one = models.create("emofan", **arguments, n_expression=8, seed=3)
    none = models.create("emofan", **arguments, n_expression=0)
    report = init_from(none, one, source_classes=tuple("abcdefgh"))
    head = arrays(one)["emotion/output/kernel"]
    np.testing.assert_array_equal(arrays(none)["emotion/output/kernel"], head[:, 8:])
    assert "emotion/output/bias" in report.resized
    assert not report.skipped


def test_regressing_models_of_other_widths_are_refused_by_their_differences():
    one = models.create("resnet18", width=4, n_expression=7, regression=True)
    other = models.create("resnet18", width=8, n_expression=5, regression=True)
    with pytest.raises(UserError, match="does not fit the model"):
        init_from(other, one, classes=tuple("abcde"), source_classes=tuple("abcdefg"))


def test_a_converted_directory_is_no_more_trusted_than_its_file(tmp_path):
    path = checkpoint(tmp_path, "jax.npz")
    convert_lib.convert("vit_ti16", path, tmp_path / "model")
    reports = []
    for where in (path, tmp_path / "model"):
        model = models.create("vit_ti16", **ARGUMENTS, se=True)
        before = arrays(model)["head/kernel"]
        names = tuple("abcdefghij")[: before.shape[1]]
        reports.append(init_from(model, where, classes=names))
        np.testing.assert_array_equal(arrays(model)["head/kernel"], before)
    assert reports[0] == reports[1]
    assert reports[1].skipped["head/kernel"] == "its classes are not known"


def test_another_size_is_named_before_its_arrays(tmp_path):
    model = models.create("vit_s16", depth=1, image_size=32)
    message = r"is a vit_ti16 \(192 features\), the model a vit_s16 \(384\); set config.model.name"
    with pytest.raises(UserError, match=message):
        init_from(model, checkpoint(tmp_path, "jax.npz"))


def test_a_foreign_file_is_one_line(tmp_path):
    path = write(tmp_path / "foreign.npz", {"fc.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError) as raised:
        init_from(models.create("vit_ti16", **ARGUMENTS), path)
    assert str(raised.value) == (
        f"{path} is not a checkpoint of vit_b16 or vit_l16 or vit_s16 or vit_ti16 "
        "(there is no 'patch_embed.proj.weight'); its 1 entries begin with fc.weight"
    )


def test_an_allowed_name_ends_where_the_entry_s_does(tmp_path):
    state = original(arrays(source())) | {"second/kernel": np.zeros((4, 4), np.float32)}
    path = write(tmp_path / "old.npz", state)
    model = models.create("vit_ti16", **ARGUMENTS)
    with pytest.raises(UserError, match=r"1 unexpected:\n  second/kernel"):
        init_from(model, path, allow=("se",))


def test_the_size_of_converted_pictures_is_that_of_the_positions(tmp_path):
    checkpoint(tmp_path, "jax.npz", image_size=64)
    loaded = convert_lib.convert("vit_ti16", tmp_path / "jax.npz", tmp_path / "model")
    assert loaded.preprocessing.image_size == 64
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert convert_lib.release("vit_ti16").preprocessing.image_size == 224
