import concurrent.futures
import io
import multiprocessing
import os
import pickle

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from PIL import Image

from affect_jax import batches as batches_lib
from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.inference.predictor import Predictor
from affect_jax.models.landmarks import DECODERS, decode_heatmaps, grid_to_pixels
from affect_jax.weights.model_dir import LoadedModel, Preprocessing
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.sources.synthetic import SyntheticFaces
from tests.affect_jax import tiny

TRUNK = {"width": 16, "depth": 1, "stacks": 2, "landmarks": 3}
NAMES = ("calm", "glad", "cross")
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def predictor(
    name,
    arguments,
    class_names=NAMES,
    fit="stretch",
    margin=0.0,
    provenance=None,
    hierarchy=None,
    **options,
):
    model = models.create(name, **arguments)
    model.eval()
    preprocessing = Preprocessing(image_size=16, mean=MEAN, std=STD, fit=fit, margin=margin)
    known = (preprocessing, class_names, provenance or {}, hierarchy)
    loaded = LoadedModel(model, name, arguments, *known)
    return Predictor(loaded, **options)


@pytest.fixture(scope="module")
def emofan():
    return predictor("emofan", {**TRUNK, "emotion_blocks": 1, "n_expression": 3}, batch_size=4)


@pytest.fixture(scope="module")
def fan():
    return predictor("fan", TRUNK, (), batch_size=2)


def encoded(picture):
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


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
        (np.zeros((0, 16, 16, 3), np.uint8), "at least one image"),
        (np.zeros((1, 16, 16, 3), np.int64), "batch is int64; give uint8"),
        (np.zeros((1, 16, 16, 3), np.float64), "batch is float64; give uint8"),
        ([[1]], "must be an array, not a list"),
    ],
)
def test_batches_that_are_none(emofan, batch, message):
    with pytest.raises(UserError, match=message):
        emofan.outputs(batch)


def test_a_tree_adds_the_coarse_class_and_its_probability(pictures):
    tree = Hierarchy("mine", NAMES, ("low", "high"), (0, 1, 1))
    made = predictor("resnet18", {"width": 4, "n_expression": 3}, hierarchy=tree)
    for one in (made, pickle.loads(pickle.dumps(made))):
        frame = one.predict([*pictures, "no_such.png"])
        assert list(frame.columns)[2:7] == [
            "expression", "confidence", "coarse", "coarse_probability", "p_calm",
        ]  # fmt: skip
        sums = {"low": frame["p_calm"], "high": frame["p_glad"] + frame["p_cross"]}
        for i in range(6):
            coarse = frame["coarse"][i]
            assert coarse == ("low" if frame["expression"][i] == "calm" else "high")
            assert frame["coarse_probability"][i] == pytest.approx(sums[coarse][i])
        assert frame.loc[6, ["coarse", "coarse_probability"]].isna().all()


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
    from_array = emofan.predict(emofan.loaded.preprocessing.pixels(picture))
    np.testing.assert_allclose(frame["valence"][1], from_array["valence"][0], atol=1e-6)


def test_every_table_has_all_columns(emofan, fan, tmp_path, pictures):
    columns = list(emofan.predict(pictures[:1]).columns[1:])
    nothing, bad = emofan.predict([]), emofan.predict([tmp_path / "absent.png", b"no picture"])
    assert len(nothing) == 0 and list(nothing.columns) == ["path", *columns]
    assert list(bad.columns) == ["path", "index", *columns]
    assert list(bad["error"]) == ["No such file or directory", "not an image in a known format"]
    assert bad["path"].isna()[1] and bad["index"][1] == 1
    assert bad[columns[:-1]].isna().all(axis=None)
    assert nothing["valence"].dtype == bad["p_calm"].dtype == np.float64
    empty = fan.predict(iter([]), landmarks=True)
    assert list(empty.columns) == ["path", *(f"{c}{k}" for k in range(3) for c in "xy"), "error"]


def test_all_kinds_of_pictures_give_the_same(emofan, tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (41, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "colour.png"), colour[..., ::-1])
    data = (tmp_path / "colour.png").read_bytes()
    opaque = np.dstack([colour, np.full((41, 30), 255, np.uint8)])
    given = [
        colour,
        str(tmp_path / "colour.png"),
        tmp_path / "colour.png",
        data,
        bytearray(data),
    ]
    given += [
        memoryview(data),
        Image.open(tmp_path / "colour.png"),
        opaque,
        jnp.asarray(colour),
    ]
    table = emofan.predict(given)
    assert table["error"].isna().all()
    assert table["valence"].nunique() == 1
    assert list(table["path"].isna()) == [True, False, False] + [True] * 6
    grey = np.ascontiguousarray(colour[..., 0])
    kinds = [grey, grey[..., None], np.dstack([grey] * 3), Image.fromarray(grey)]
    assert emofan.predict(kinds)["valence"].nunique() == 1
    assert emofan.predict(np.stack([grey, grey])[..., None])["valence"].nunique() == 1
    # Transparency is laid on black, as in files.
    clear = opaque * np.uint8([1, 1, 1, 0])
    black = np.zeros_like(colour)
    assert emofan.predict([clear, Image.fromarray(clear), black])["valence"].nunique() == 1
    for single in (grey, data, Image.fromarray(colour)):
        assert len(emofan.predict(single)) == 1
    names = pd.Series([str(tmp_path / "colour.png")] * 2)
    for several in (names, names.to_numpy(), np.array(names.tolist()), {*names}, iter(names)):
        assert emofan.predict(several)["error"].isna().all()


def test_photos_turned_by_exif_are_turned_however_they_are_given(emofan, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(picture)).save(tmp_path / "turned.png", exif=exif)
    table = emofan.predict([picture, tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    assert table["valence"].nunique() == 1


def test_files_that_cannot_be_pictures_are_rows(emofan, pictures):
    damaged = Image.open(io.BytesIO(encoded(pictures[0])[:-30]))
    table = emofan.predict([b"", "a\0b", "http://example.org/a.png", damaged, pictures[0]])
    assert list(table["error"].isna()) == [False] * 4 + [True]
    assert table["error"][0] == "zero bytes" and "null" in table["error"][1]


def test_files_larger_than_max_pixels_are_rows(pictures):
    model = predictor("fan", TRUNK, (), max_pixels=100)
    table = model.predict([encoded(pictures[0]), Image.fromarray(pictures[0]), pictures[0]])
    assert list(table["error"][:2]) == ["16x16 is more than 100 pixels (max_pixels)"] * 2
    assert table["error"].isna()[2]  # an array is in memory already
    with pytest.raises(UserError, match="max_pixels = 0"):
        predictor("fan", TRUNK, (), max_pixels=0)


def test_few_sizes_are_compiled_and_padding_changes_nothing(pictures, monkeypatch):
    model = predictor("emofan", {**TRUNK, "emotion_blocks": 1, "n_expression": 3}, batch_size=20)
    network, sizes = model._opened(), []
    run = network.brief
    monkeypatch.setattr(network, "brief", lambda b, *rest: sizes.append(len(b)) or run(b, *rest))
    many = np.concatenate([pictures] * 8)
    alone = model.predict(many[:1])
    for count in (2, 3, 4, 5, 11, 16, 17, 20, 21, 45):
        table = model.predict(many[:count])
        np.testing.assert_allclose(table["valence"][0], alone["valence"][0], atol=1e-5)
        np.testing.assert_allclose(table["p_glad"][0], alone["p_glad"][0], atol=1e-5)
    assert sizes == [1, 4, 4, 4, 16, 16, 16, 20, 20, 20, 20, 20, 20, 20]


def test_a_model_that_mixes_a_batch_sees_no_filling(pictures, monkeypatch):
    settings = {"scope": "batch", "anchors": 1, "heads": 1}
    arguments = {**TRUNK, "emotion_blocks": 1, "n_expression": 3, "reliability": settings}
    model = predictor("emofan", arguments, batch_size=4)
    network, sizes = model._opened(), []
    run = network.brief
    monkeypatch.setattr(network, "brief", lambda b, *rest: sizes.append(len(b)) or run(b, *rest))
    model.predict(pictures[:3])
    model.predict(pictures)
    assert sizes == [3, 4, 2]


def test_a_model_without_heads_says_what_to_do(pictures):
    backbone = predictor("vit_ti16", {"depth": 1, "n_expression": 0}, ())
    for images in (pictures, []):
        with pytest.raises(
            UserError, match=r"vit_ti16 has no head for expression.*\.outputs\(batch"
        ):
            backbone.predict(images)
    classifier = predictor("resnet18", {"width": 4, "n_expression": 3})
    with pytest.raises(UserError, match="no head for landmarks"):
        classifier.predict(pictures, landmarks=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_prediction_that_is_no_number_is_a_row_with_an_error(bad, pictures):
    model = predictor("resnet18", {"width": 4, "n_expression": 3})
    head = model.loaded.model.head
    head.bias[...] = head.bias[...].at[1].set(bad)
    model = Predictor(model.loaded)
    table = model.predict([pictures[0], b""])
    assert list(table["error"]) == ["the model gives no number for logits", "zero bytes"]
    assert table[["expression", "confidence", "p_calm"]].isna().all(axis=None)
    head.bias[...] = head.bias[...].at[1].set(-np.inf)  # a class that is ruled out
    table = Predictor(model.loaded).predict(pictures[:1])
    assert table["p_glad"][0] == 0 and table["error"].isna().all()


def test_landmarks_of_a_heatmap_without_numbers(pictures):
    for decode in DECODERS:
        heatmaps = np.random.default_rng(0).uniform(size=(1, 4, 4, 2)).astype(np.float32)
        heatmaps[0, 2, 1, 1] = np.nan
        points, scores = decode_heatmaps(jnp.asarray(heatmaps), decode)
        assert np.isfinite(points[0, 0]).all() and np.isnan(points[0, 1]).all()
        assert np.isnan(scores[0, 1])
    model = predictor("fan", TRUNK, ())
    broken = jax.tree.map(lambda x: x * np.nan, nnx.state(model.loaded.model, nnx.Param))
    nnx.update(model.loaded.model, broken)
    table = Predictor(model.loaded).predict(pictures[:1])
    assert table["error"][0] == "the model gives no number for landmarks"
    assert np.isnan(table["x0"][0])


def test_a_model_can_be_pickled(emofan, pictures):
    wanted = emofan.predict(pictures)
    copied = pickle.loads(pickle.dumps(emofan))
    assert (copied.batch_size, copied.max_pixels) == (emofan.batch_size, emofan.max_pixels)
    again = pickle.loads(pickle.dumps(copied))  # not opened in between
    pd.testing.assert_frame_equal(again.predict(pictures), wanted)
    loaded = pickle.loads(pickle.dumps(emofan.loaded))
    assert loaded.class_names == NAMES and loaded.preprocessing == emofan.loaded.preprocessing
    pd.testing.assert_frame_equal(Predictor(loaded, batch_size=4).predict(pictures), wanted)


def test_a_spawned_process_predicts_the_same(fan, pictures):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        table = pool.submit(fan.predict, pictures).result(timeout=120)
    pd.testing.assert_frame_equal(table, fan.predict(pictures))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_is_told_and_does_not_hang(fan, pictures):
    packed = pickle.dumps(fan)
    uses = [
        lambda: fan.predict(pictures),
        lambda: fan.outputs(pictures),
        lambda: pickle.loads(packed).predict(pictures),  # as a pool of forked workers does
    ]
    for use in uses:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                use()
                message = "no error"
            except BaseException as error:
                message = f"{type(error).__name__}: {error}"
            os.write(writing, message.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            message = pipe.read()
        os.waitpid(child, 0)
        assert message.startswith("UserError: process") and 'get_context("spawn")' in message


def test_threads_share_a_model(pictures):
    model = predictor("emofan", {**TRUNK, "emotion_blocks": 1, "n_expression": 3}, batch_size=4)
    other = predictor("fan", TRUNK, (), batch_size=4)
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        # Not compiled yet: threads meet while one traces.
        jobs = [
            threads.submit(m.predict, pictures[: 1 + k % 5])
            for k in range(12)
            for m in (model, other)
        ]
        tables = [job.result() for job in jobs]
    for k, table in enumerate(tables):
        alone = (model, other)[k % 2].predict(pictures[: 1 + (k // 2) % 5])
        pd.testing.assert_frame_equal(table, alone)


def test_a_landmark_model_gives_landmarks_in_pixels_of_the_picture(fan):
    picture = np.random.default_rng(1).integers(0, 256, (48, 32, 3), np.uint8)
    frame = fan.predict(picture)
    assert list(frame.columns) == ["index", *(f"{c}{k}" for k in range(3) for c in "xy"), "error"]
    small = fan.loaded.preprocessing.pixels(picture)
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
    with batches_lib.eval_batches(config, source) as batches:
        evaluated = next(iter(batches))["image"][:2]
    model = predictor("fan", TRUNK, (), fit=fit, margin=0.28)
    served = [model.loaded.preprocessing.pixels(source[i]["image"]) for i in range(2)]
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
