import dataclasses
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.evaluation.smoothing import smooth
from affect_jax.inference.face_scorer import _averaged
from affect_jax.inference.face_table import BOX, NO_FACE
from affect_jax.inference.inputs import Item, find
from affect_jax.inference.prediction_run import Settings, predict_faces, predictions
from affect_jax.inference.predictor import Predictor
from affect_jax.metrics.calibration import average
from affect_jax.metrics.classification import softmax
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.model_dir import LoadedModel
from tests.affect_jax.inference import media

P = [f"p_{name}" for name in media.CLASSES]
VALUES = [*P, "confidence", "valence", "arousal"]
FAST = {"batch_size": 4, "workers": 2}


def scene(*places, height=60, width=200):
    """A black image with faces of 30 pixels, person -> left edge."""
    image = np.zeros((height, width, 3), np.uint8)
    for person, left in places:
        image[15:45, left : left + 30] = np.maximum(media.faces(12, 32)[person][1:31, 1:31], 50)
    return image


def table(tiny, images, **settings):
    return predict_faces(
        tiny, images, detector=media.find_bright, **{**FAST, "smooth": False, **settings}
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve frames: none, then one face, then two that cross a little."""
    frames = [scene()] * 3 + [scene((0, 10 + 2 * n)) for n in range(4)]
    frames += [scene((0, 20 + 2 * n), (1, 140 - 2 * n)) for n in range(5)]
    return media.write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def test_path_bytes_pillow_and_array_give_the_same(tiny, tmp_path):
    image = scene((0, 20), (1, 100))
    path = tmp_path / "a.png"
    path.write_bytes(media.encoded(image, "PNG"))
    found = table(tiny, [path, path.read_bytes(), Image.fromarray(image), image])
    assert found["file"].tolist() == [str(path)] * 2 + ["1", "1", "2", "2", "3", "3"]
    for _, rows in found.groupby("face"):
        assert (rows[VALUES] == rows[VALUES].iloc[0]).all(axis=None)


def test_neither_order_nor_company_changes_a_bit(tiny):
    images = [scene((n, 10), (n + 1, 90)) for n in range(5)]
    together = table(tiny, images)
    alone = [table(tiny, [image]) for image in images]
    reverse = table(tiny, images[::-1])
    for n, own in enumerate(alone):
        for other in (together[together["file"] == str(n)], reverse[reverse["file"] == str(4 - n)]):
            np.testing.assert_array_equal(own[VALUES], other[VALUES])


def test_other_batch_sizes_agree(tiny):
    images = [scene((n, 10)) for n in range(5)]
    np.testing.assert_allclose(
        table(tiny, images)[VALUES], table(tiny, images, batch_size=3)[VALUES], atol=1e-5
    )


def test_ready_crops_give_what_the_predictor_gives(tiny):
    images = [*media.faces()[:3], media.faces()[3][..., 0]]
    found = table(tiny, images, detect=False, landmarks=True)
    expected = tiny.predict(images, landmarks=True)
    same = [*VALUES, *(f"{axis}{k}" for k in range(68) for axis in "xy")]
    np.testing.assert_allclose(found[same], expected[same], rtol=1e-5, atol=1e-5)
    assert found["expression"].tolist() == expected["expression"].tolist()
    assert found[[*BOX]].iloc[0].tolist() == [0, 0, media.SIDE, media.SIDE]
    assert found["detection_score"].isna().all()


def test_probabilities_sum_to_one_and_belong_to_the_expression(tiny):
    found = table(tiny, [scene((n, 10)) for n in range(6)])
    np.testing.assert_allclose(found[P].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(found[P].max(axis=1), found["confidence"])
    best = [media.CLASSES[k] for k in found[P].to_numpy().argmax(axis=1)]
    assert found["expression"].tolist() == best


def test_flip_and_temperature(tiny):
    images = [scene((0, 10)), scene((1, 10))]
    plain, mirrored = (
        np.log(table(tiny, [image[:, ::step] for image in images])[P].to_numpy(np.float64))
        for step in (1, -1)
    )
    warm = table(tiny, images, temperature=2.5)
    np.testing.assert_allclose(warm[P], softmax(plain / 2.5), atol=1e-5)
    both = table(tiny, images, flip=True, temperature=2.5)
    expected = softmax(average(plain / 2.5, mirrored / 2.5))
    np.testing.assert_allclose(both[P], expected, atol=1e-4)


def test_flip_leaves_the_bounds_to_clip_va():
    names = ("valence", "arousal")
    one, other = (dict.fromkeys(names, np.array(values)) for values in ([1.5, 0.2], [1.1, -0.4]))
    for name in names:
        np.testing.assert_allclose(_averaged(one, other)[name], [1.3, -0.1])


def test_the_temperature_is_kept_with_the_model(tiny, monkeypatch):
    images = [media.faces()[n] for n in range(4)]
    plain, given = tiny.predict(images)[P], table(tiny, images, detect=False, temperature=3.0)
    warm = dataclasses.replace(tiny.loaded, temperature=3.0)
    monkeypatch.setattr(tiny._opened(), "loaded", warm)
    own = table(tiny, images, detect=False)
    np.testing.assert_array_equal(own[P], given[P])
    np.testing.assert_allclose(own[P], tiny.predict(images)[P], atol=1e-6)
    np.testing.assert_allclose(own[P], softmax(np.log(plain.to_numpy()) / 3), atol=1e-5)
    unscaled = table(tiny, images, detect=False, temperature=1.0)
    np.testing.assert_allclose(unscaled[P], plain, atol=1e-6)


def test_frames_of_a_video(tiny, clip):
    found = table(tiny, [clip])
    counts = found.groupby("frame")["face"].max() + 1
    assert counts.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    assert (found["error"][:3] == NO_FACE).all() and (found["error"][3:] == "").all()
    np.testing.assert_allclose(found["time"], found["frame"] / 25, atol=1e-6)
    left = found[found["face"] == 0]
    assert set(left["track"]) == {0} and set(found[found["face"] == 1]["track"]) == {1}


def test_a_video_has_as_many_rows_as_its_frames_in_a_folder(tiny, clip, tmp_path):
    from affect_jax.inference.video import read_video

    for frame in read_video(clip):
        (tmp_path / f"{frame.number:04}.png").write_bytes(media.encoded(frame.image, "PNG"))
    photos = table(tiny, sorted(tmp_path.iterdir()))
    video = table(tiny, [clip])
    np.testing.assert_array_equal(video[VALUES], photos[VALUES])
    assert len(video) == len(photos)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_tracks_and_smoothing_do_not_depend_on_the_batch_size(tiny, clip, batch_size):
    raw = table(tiny, [clip], batch_size=batch_size)
    smoothed = table(tiny, [clip], batch_size=batch_size, smooth=True)
    reference = table(tiny, [clip])
    for name in ("track", "face", *BOX):
        np.testing.assert_array_equal(raw[name], smoothed[name])
        np.testing.assert_array_equal(raw[name], reference[name])
    seen = raw["face"] >= 0
    expected = smooth(raw[seen][["valence", "arousal"]], raw[seen]["track"])
    np.testing.assert_allclose(smoothed[seen][["valence", "arousal"]], expected, atol=1e-5)
    logits = smooth(np.log(raw[seen][P].astype(float)), raw[seen]["track"])
    np.testing.assert_allclose(smoothed[seen][P], softmax(logits), atol=1e-5)


def test_any_place_of_a_video_is_one_to_go_on_from(tiny, clip):
    items = [*find([clip]), Item("photo", "photo", content=scene((2, 30)))]
    settings = Settings(**FAST)
    options = {"settings": settings, "detector": media.find_bright}
    run = predictions(tiny, items, **options)
    whole, positions = [], []
    for predicted in run:
        whole.append(predicted.rows)
        positions.append(run.position())
    for stop in range(0, len(whole), 3):
        rest = list(predictions(tiny, items, **options, position=positions[stop]))
        again = list(itertools.chain(*whole[: stop + 1], *(p.rows for p in rest)))
        assert repr(again) == repr(list(itertools.chain(*whole)))


def test_known_boxes_need_no_detector(tiny):
    def never(image):
        raise AssertionError("asked")

    image = scene((0, 10), (1, 90))
    items = [
        Item("a", "a", content=image, boxes=((10, 15, 40, 45),)),
        Item("b", "b", content=image, boxes=((500, 500, 540, 540), (90, 15, 120, 45))),
    ]
    run = predictions(tiny, items, Settings(**FAST), detector=never)
    rows = [row for predicted in run for row in predicted.rows]
    assert [row["error"] for row in rows] == [
        "", "the face's box or landmarks lie outside the image", "",
    ]  # fmt: skip
    assert [row["left"] for row in rows] == [10, 500, 90]
    assert all(math.isnan(row["detection_score"]) for row in rows)


def test_a_model_of_landmarks_alone_gives_them(tmp_path):
    arguments = {"width": 16, "depth": 1, "stacks": 1, "landmarks": 3}
    model = models.create("fan", **arguments)
    model.eval()
    fan = Predictor(LoadedModel(model, "fan", arguments, Preprocessing(16), (), {}))
    found = table(fan, [media.faces()[0]], detect=False)
    points = [f"{axis}{k}" for k in range(3) for axis in "xy"]
    expected = fan.predict(media.faces()[0])
    np.testing.assert_allclose(found[points], expected[points], atol=1e-4)
    assert found["expression"].tolist() == [""]
    video = media.write_video(tmp_path / "v.mp4", [scene((0, 10))] * 2)
    found = table(fan, [video], smooth=True)
    assert found["track"].tolist() == [0, 0] and (found["error"] == "").all()
    assert np.isfinite(found[points]).all(axis=None)


def test_max_faces_keeps_the_best(tiny):
    found = table(tiny, [scene((0, 10), (1, 90), (2, 150))], max_faces=2)
    assert found["left"].tolist() == [10, 90]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0; at least 1"),
        ({"fps": -1.0}, "fps = -1.0; it must be 0 or more"),
        ({"temperature": 0.0}, "temperature = 0.0; it must be positive"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Settings(**settings)


def test_a_detector_that_fails_ends_the_run(tiny):
    def broken(image):
        raise RuntimeError("my detector")

    with pytest.raises(RuntimeError, match="my detector"):
        predict_faces(tiny, [scene()], detector=broken, **FAST)


def test_without_a_crop_rule_each_face_has_its_own_answer(tiny, caplog):
    whole = Preprocessing(16, crop="whole", margin=0.1)
    model = Predictor(dataclasses.replace(tiny.loaded, preprocessing=whole), batch_size=2)
    photo = scene((0, 20), (1, 120))
    for _ in range(2):
        found = table(model, [photo], batch_size=2)
    assert found["left"].tolist() == [20, 120]
    assert (found[P].iloc[0] != found[P].iloc[1]).all()
    crops = []
    for left in (20, 120):  # 39 pixels, 1.3 times the box of 30
        image = np.zeros((60, 200, 3), np.uint8)
        image[:, left - 5 : left + 35] = photo[:, left - 5 : left + 35]
        around = Preprocessing(16, crop="box", crop_scale=1.3)
        crops.append(around.pixels(image, box=np.float32([left, 15, left + 30, 45])))
    logits = model.scores(np.stack(crops))["logits"]
    np.testing.assert_allclose(found[P], softmax(logits), atol=1e-5)
    assert caplog.text.count("1.3 times as large as the box, which is a guess") == 1
    caplog.clear()
    alone = table(model, [photo], detect=False, batch_size=2)
    assert len(alone) == 1 and not caplog.records
    np.testing.assert_allclose(
        alone[P], softmax(model.scores(whole.pixels(photo)[None])["logits"]), atol=1e-5
    )
