"""EmoFAN against the released EmoNet: outputs, and one training step's gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax.models.state import current_stats, take_apart
from affect_jax.weights.released import convert
from affect_jax.weights.released.fan import emonet_modules
from tests.golden import golden_data as golden

OUTPUTS = {"heatmap": "heatmaps", "expression": "logits", "valence": "valence",
           "arousal": "arousal"}  # fmt: skip
RECORD = golden.manifest("emonet_train")


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, state, *args):
    return nnx.merge(graphdef, state, copy=True)(*args)


@nnx.jit
def from_trunk(model, trunk):
    return model.from_trunk(trunk)


def trunk_outputs(model, images):
    # Compiled once per dtype: the networks recorded here share the trunk.
    return run(*nnx.split(model.fan), images)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # In float32 by default below, of a converted file.
        pytest.param("emonet8", "float32", marks=pytest.mark.slow),
        ("emonet8", "float64"),
        ("emonet5", "float64"),
        ("emonet8_noattention", "float64"),
    ],
)
def test_outputs_are_those_of_emonet(name, dtype):
    with golden.precision(dtype):
        model = golden.build("emonet", name, dtype)
        images = golden.network_input(name, convert.release("emonet").preprocessing)
        outputs = jax.device_get(from_trunk(model, trunk_outputs(model, images)))
    for official, ours in OUTPUTS.items():
        golden.assert_recorded(name, official, outputs[ours], dtype)


@pytest.fixture(scope="module", params=golden.MAINLY_DOUBLE)
def training_step(request):
    """Outputs, running statistics and gradients with the trunk frozen, as recorded."""
    dtype = request.param
    with golden.precision(dtype):
        model = golden.build("emonet", "emonet8", dtype)
        pictures = golden.weights.image("emonet8", RECORD["batch"], 256, 256)
        halves = [trunk_outputs(model, half) for half in (pictures[:2], pictures[2:])]
        trunk = jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)
        model.emotion.train()
        blueprint, params, stats = take_apart(model)
        emotion = {k: v for k, v in params.items() if k.startswith("emotion/")}
        ramp = jnp.linspace(-1, 1, RECORD["batch"] * 8).reshape(-1, 8)

        # All large arrays are arguments: XLA would fold constants of this size for a minute.
        def loss_of(emotion, others, stats, trunk):
            model = blueprint.build({**others, **emotion}, stats)
            outputs = model.from_trunk(trunk)
            terms = jnp.sum(outputs["logits"] * ramp), jnp.sum(outputs["valence"] ** 2)
            loss = terms[0] + 0.5 * terms[1] - jnp.sum(outputs["arousal"])
            return loss, (outputs, current_stats(model))

        step = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
        (loss, (outputs, after)), gradients = step(emotion, params, stats, trunk)
        del outputs["heatmaps"], outputs["stack_heatmaps"]
    return jax.device_get((dtype, stats, loss, outputs, after, gradients))


def recorded(key, dtype):
    return golden.arrays("emonet_train")[f"out{dtype[-2:]}/{key}"]


def test_training_outputs_are_those_of_emonet(training_step):
    dtype, _, loss, outputs, _, _ = training_step
    for official in ("expression", "valence", "arousal"):
        wanted = recorded(official, dtype)
        tolerance = 1e-4 if dtype == "float32" else 1e-10
        np.testing.assert_allclose(outputs[OUTPUTS[official]], wanted, rtol=0, atol=tolerance)
    tolerance = 1e-3 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(loss, recorded("loss", dtype), rtol=0, atol=tolerance)


def test_running_statistics_are_those_of_emonet(training_step):
    dtype, before, _, _, after, _ = training_step
    names = emonet_modules({"depth": 4, "stacks": 2, "emotion_blocks": 4})
    compared = 0
    for key in RECORD["outputs"]:
        if key.startswith("after/"):
            module, leaf = key.removeprefix("after/").rsplit(".running_", 1)
            wanted = recorded(key, dtype)
            tolerance = (1e-5 if dtype == "float32" else 1e-12) * np.abs(wanted).max()
            got = after[f"{names[module]}/{leaf}"]
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)
            compared += 1
    assert compared == 26
    frozen = [path for path in before if path.startswith("fan/")]
    assert len(frozen) > 100
    for path in frozen:
        np.testing.assert_array_equal(after[path], before[path])


def test_gradients_are_those_of_emonet(training_step):
    dtype, _, _, _, _, gradients = training_step
    names = emonet_modules({"depth": 4, "stacks": 2, "emotion_blocks": 4})
    assert len(RECORD["parameters_with_gradient"]) == len(gradients)
    for entry, norm in zip(
        RECORD["parameters_with_gradient"], recorded("grad_norms", dtype), strict=True
    ):
        module, leaf = entry.rsplit(".", 1)
        paths = [
            f"{names[module]}/{x}" for x in (("kernel", "scale") if leaf == "weight" else ("bias",))
        ]
        (got,) = [gradients[path] for path in paths if path in gradients]
        if got.ndim == 4:
            got = got.transpose(3, 2, 0, 1)
        elif got.ndim == 2:
            got = got.T
        wanted = recorded(f"grad/{entry}", dtype)
        # A bias before batch statistics has gradient zero up to rounding.
        relative, absolute = (0.05, 1e-4) if dtype == "float32" else (1e-9, 1e-11)
        sample = golden.weights.sample(got, RECORD["gradient_sample_limit"])
        tolerance = relative * np.abs(wanted).max() + absolute
        np.testing.assert_allclose(sample, wanted, rtol=0, atol=tolerance, err_msg=entry)
        np.testing.assert_allclose(np.linalg.norm(got), norm, rtol=relative, atol=absolute)


def test_a_converted_file_gives_the_outputs_of_emonet(tmp_path):
    """The whole way: file, command, model directory, uint8 pictures."""
    torch = pytest.importorskip("torch")
    from affect_jax import convert as command_line
    from affect_jax import load

    state = {f"module.{k}": torch.tensor(v) for k, v in golden.state_dict("emonet8").items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "emonet_8.pth")
    command = ["--architecture", "emonet", "--source", str(tmp_path / "emonet_8.pth")]
    assert command_line.main([*command, "--output", str(tmp_path / "model")]) == 0
    predictor = load(tmp_path / "model")
    outputs = predictor.outputs(golden.pictures("emonet8"))
    for official, ours in OUTPUTS.items():
        golden.assert_recorded("emonet8", official, outputs[ours], "float32")
    assert predictor.loaded.class_names[6:] == ("anger", "contempt")
    assert "emonet" in convert.architectures()


def test_the_crop_of_converted_weights_is_that_of_emonet():
    """Theirs maps coordinates, with no word on where a pixel has its centre. Of a box, ours maps
    pixel edges: half a pixel of each side lies between. Of landmarks, which are pixel centres, half
    a pixel of the output does."""
    recorded = golden.arrays("crops")
    framing = convert.release("emonet").preprocessing.framing
    for box, matrix in zip(recorded["boxes"], recorded["matrix"], strict=True):
        ours = framing.matrix(framing.frame(300, 320, box=box))
        np.testing.assert_allclose(ours[:, :2], matrix[:, :2], rtol=1e-12)
        half = (np.diag(matrix) - 1) / 2
        np.testing.assert_allclose(ours[:, 2], matrix[:, 2] + half, atol=1e-9)
    pairs = zip(recorded["landmarks"], recorded["landmark_box_matrix"], strict=True)
    for landmarks, matrix in pairs:
        ours = framing.matrix(framing.frame(300, 320, landmarks))
        np.testing.assert_allclose(ours[:, :2], matrix[:, :2], rtol=1e-12)
        np.testing.assert_allclose(ours[:, 2], matrix[:, 2] - 0.5, atol=1e-9)
