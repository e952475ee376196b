import cv2
import jax
import numpy as np
import pandas as pd
import pytest

from affect_jax import data, models
from affect_jax.errors import UserError
from affect_jax.model_io import LoadedModel, Preprocessing
from affect_jax.models.landmarks import decode_heatmaps, grid_to_pixels
from affect_jax.predict import Predictor
from data_pipelines.synthetic import SyntheticFaces
from tests.affect_jax import tiny

TRUNK = {"width": 16, "depth": 1, "stacks": 2, "landmarks": 3}
NAMES = ("calm", "glad", "cross")
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def predictor(
    name, arguments, class_names=NAMES, fit="stretch", margin=0.0, provenance=None, **options
):
    model = models.create(name, **arguments)
    model.eval()
    preprocessing = Preprocessing(image_size=16, mean=MEAN, std=STD, fit=fit, margin=margin)
    loaded = LoadedModel(model, name, arguments, preprocessing, class_names, provenance or {})
    return Predictor(loaded, **options)


@pytest.fixture(scope="module")
def emofan():
    return predictor("emofan", {**TRUNK, "emotion_blocks": 1, "n_expression": 3}, batch_size=4)


@pytest.fixture(scope="module")
def fan():
    return predictor("fan", TRUNK, (), batch_size=2)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)


def test_outputs_of_uint8_and_of_normalised_pictures_agree(emofan, pictures):
    raw = emofan.outputs(pictures)
    ready = emofan.outputs(
        ((pictures / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
    )
    assert raw["logits"].shape == (6, 3)
    assert raw["valence"].shape == raw["arousal"].shape == (6,)
    assert raw["heatmaps"].shape == (6, 4, 4, 3)
    assert "features" not in raw
    for key in ("logits", "valence", "arousal", "heatmaps"):
        assert isinstance(raw[key], np.ndarray)
        tolerance = 1e-5 * np.abs(ready[key]).max()
        np.testing.assert_allclose(raw[key], ready[key], rtol=0, atol=tolerance)


def test_stacks_come_as_a_list(fan, pictures):
    outputs = fan.outputs(pictures)
    assert isinstance(outputs["stack_heatmaps"], list)
    np.testing.assert_array_equal(outputs["stack_heatmaps"][-1], outputs["heatmaps"])
    assert set(outputs) == {"heatmaps", "stack_heatmaps"}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), "add a leading axis for a single one"),
        (np.zeros((1, 3, 16, 16), np.uint8), r"must be \[B, H, W, 3\].*\(1, 3, 16, 16\)"),
        (np.zeros((0, 16, 16, 3), np.uint8), "at least one picture"),
        (np.zeros((1, 16, 16, 3), np.int64), "batch is int64; give uint8"),
        (np.zeros((1, 16, 16, 3), np.float64), "batch is float64; give uint8"),
        ([[1]], "must be an array, not a list"),
    ],
)
def test_batches_that_are_none(emofan, batch, message):
    with pytest.raises(UserError, match=message):
        emofan.outputs(batch)


def test_predictions_do_not_depend_on_the_batch(emofan, pictures):
    frame = emofan.predict(pictures)  # a full batch of four and one of two
    outputs = emofan.outputs(pictures)
    assert list(frame.columns) == [
        "index", "expression", "confidence", "p_calm", "p_glad", "p_cross", "valence", "arousal",
        "error",
    ]  # fmt: skip
    assert list(frame["index"]) == list(range(6))
    probabilities = jax.nn.softmax(outputs["logits"])
    np.testing.assert_allclose(frame[[f"p_{n}" for n in NAMES]], probabilities, atol=1e-5)
    assert list(frame["expression"]) == [NAMES[i] for i in probabilities.argmax(-1)]
    np.testing.assert_allclose(frame["confidence"], probabilities.max(-1), atol=1e-5)
    np.testing.assert_allclose(frame["valence"], outputs["valence"], atol=1e-5)
    np.testing.assert_allclose(frame["arousal"], outputs["arousal"], atol=1e-5)
    assert frame["error"].isna().all()


def test_bad_files_are_rows_with_an_error_and_keep_the_order(emofan, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "good.png"), picture[..., ::-1])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    names = ["empty.jpg", "good.png", "absent.png", "text.png", "good.png"]
    frame = emofan.predict([tmp_path / name for name in names])
    assert list(frame["path"]) == [str(tmp_path / name) for name in names]
    assert list(frame["error"].isna()) == [False, True, False, False, True]
    assert frame["error"][2] == "No such file or directory"
    assert list(frame["valence"].isna()) == [True, False, True, True, False]
    # Files are read as RGB and resized as a whole.
    from_array = emofan.predict(cv2.resize(picture, (16, 16)))
    np.testing.assert_allclose(frame["valence"][1], from_array["valence"][0], atol=1e-6)


def test_only_bad_files_or_none_at_all(emofan, tmp_path):
    frame = emofan.predict(tmp_path / "absent.png")
    assert list(frame.columns) == ["path", "error"]
    assert isinstance(emofan.predict([]), pd.DataFrame)
    assert len(emofan.predict([])) == 0


def test_arrays_that_are_no_pictures_are_the_callers_error(emofan):
    with pytest.raises(UserError, match="picture 1 must be a uint8 RGB array"):
        emofan.predict([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)])
    with pytest.raises(UserError, match="picture 0 is a int, not an array or a path"):
        emofan.predict([3])


def test_a_landmark_model_gives_landmarks_in_pixels_of_the_picture(fan):
    picture = np.random.default_rng(1).integers(0, 256, (48, 32, 3), np.uint8)
    frame = fan.predict(picture)
    assert list(frame.columns) == ["index", *(f"{c}{k}" for k in range(3) for c in "xy"), "error"]
    small = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_LINEAR)
    points, _ = decode_heatmaps(fan.outputs(small[None])["heatmaps"])
    wanted = np.stack(
        [grid_to_pixels(points[0, :, 0], 4, 32), grid_to_pixels(points[0, :, 1], 4, 48)], -1
    )
    got = frame.loc[0, [f"{c}{k}" for k in range(3) for c in "xy"]].to_numpy(float)
    np.testing.assert_allclose(got.reshape(3, 2), wanted, atol=1e-4)


def test_the_middle_square_is_taken_where_training_took_it():
    picture = np.random.default_rng(1).integers(0, 256, (48, 32, 3), np.uint8)
    plain = predictor("fan", TRUNK, (), fit="cover")
    inside = predictor("fan", TRUNK, (), fit="cover", margin=1 / 3)
    for model, x, y, side in ((plain, 0, 8, 32), (inside, 4, 12, 24)):
        square = plain.predict(picture[y : y + side, x : x + side])
        whole = model.predict(picture)
        for k in range(3):
            np.testing.assert_allclose(whole[f"x{k}"], square[f"x{k}"] + x, atol=1e-4)
            np.testing.assert_allclose(whole[f"y{k}"], square[f"y{k}"] + y, atol=1e-4)
    with pytest.raises(UserError, match="fit is 'crop'"):
        Preprocessing(image_size=16, fit="crop")


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_a_picture_is_framed_as_evaluation_frames_it(fit):
    source = SyntheticFaces(2, image_size=100)
    config = tiny.config(data__image_size=16, data__cache="none", batch_size=8)
    config.data.augment_overrides.fit = fit
    with data.eval_batches(config, source) as batches:
        evaluated = next(iter(batches))["image"][:2]
    model = predictor("fan", TRUNK, (), fit=fit, margin=0.28)
    served = [model._resize(source[i]["image"]) for i in range(2)]
    np.testing.assert_array_equal(served, evaluated)


def test_heads_without_labels_in_training_are_not_shown(pictures):
    arguments = {**TRUNK, "emotion_blocks": 1, "n_expression": 3}
    model = predictor("emofan", arguments, provenance={"trained_for": ["expression", "landmarks"]})
    frame = model.predict(pictures[:1])
    assert "expression" in frame.columns
    assert not {"valence", "arousal"} & set(frame.columns)


def test_landmarks_on_request_and_class_numbers_without_names(pictures):
    model = predictor("emofan", {**TRUNK, "emotion_blocks": 1, "n_expression": 2}, class_names=())
    frame = model.predict(pictures[:1], landmarks=True)
    assert {"x0", "y2", "p_0", "p_1"} <= set(frame.columns)
    assert frame["expression"][0] in ("0", "1")


def test_a_batch_size_of_zero():
    with pytest.raises(UserError, match="batch_size = 0"):
        predictor("fan", TRUNK, batch_size=0)
