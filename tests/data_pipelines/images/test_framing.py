"""One way from a decoded picture to the network's pixels, whoever asks and however it is kept."""

import functools
import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.images import landmarks, transforms
from data_pipelines.images.decode import decode, decode_shrunk
from data_pipelines.images.framing import Frame, Framing
from data_pipelines.images.presets import FITS, Params
from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.schema import DecodeError
from data_pipelines.sources.cache import DataCache
from tests.data_pipelines.made_images import Listed, encode, smooth

SIZE = 32
SHAPES = [
    (32, 32),
    (64, 64),
    (65, 64),
    (63, 131),
    (129, 128),
    (1, 1),
    (3, 50),
    (350, 351),
    (902, 641),
]


def noisy(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3), np.uint8)
    return smooth(height, width, seed) // 2 + noise


def turned(picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture, quality=90, exif=exif)


@functools.cache
def raw_pictures():
    """Encoded or as arrays: odd, even, large and tiny sizes, colour and grey, turned by EXIF."""
    pictures = []
    for seed, (height, width) in enumerate(SHAPES):
        picture = noisy(height, width, seed)
        pictures += [picture, encode(picture, "PNG"), encode(picture, quality=90)]
        pictures += [turned(picture, orientation) for orientation in (3, 5, 6, 8)]
        grey = np.ascontiguousarray(picture[..., 0])
        pictures += [encode(grey, "PNG"), encode(grey, quality=90)]
    return pictures


class Framed(Listed):
    """Pictures with a box, and landmarks for half of them; both reach beyond some pictures."""

    def __init__(self, images):
        rng = np.random.default_rng(5)
        points, self.boxes = [], []
        for k, image in enumerate(images):
            height, width = (decode(image) if isinstance(image, bytes) else image).shape[:2]
            low, high = rng.uniform(-0.2, 0.3, 2), rng.uniform(0.5, 1.3, 2)
            self.boxes.append(np.float32([*(low * [width, height]), *(high * [width, height])]))
            own = rng.uniform(low, high, (68, 2)) * [width, height]
            points.append(np.float32(own if k % 2 else own * np.nan))
        super().__init__(images, landmarks=points)

    def __getitem__(self, i):
        return super().__getitem__(i) | {"box": self.boxes[i]}


@functools.cache
def source():
    return Framed(raw_pictures())


def config(fit, crop, margin=0.0, cache="none", **data):
    """A config whose evaluation frames like this, whatever its augmentation draws."""
    overrides = {"fit": fit, "margin": margin, "rotation": 20.0, "flip": 0.5}
    values = {"image_size": SIZE, "augment": "emofan", "crop": crop, "augment_overrides": overrides}
    values |= {"crop_scale": 0.0, "max_bad_fraction": 1.0, "num_threads": 2, "cache": cache, **data}
    model = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return ConfigDict({"data": values, "model": model})


def evaluated(config, source, cache=None):
    """Pixels and landmarks of two passes of an evaluation."""
    options = {"batch_size": 8, "cache": cache}
    with make_pipeline(config.data, source, train=False, **options) as batches:
        passes = [list(batches) for _ in range(2)]
    found = [
        {k: np.concatenate([b[k] for b in one])[: len(source)] for k in ("image", "landmarks")}
        for one in passes
    ]
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name])
    return found[0]


@pytest.mark.parametrize(
    ("fit", "crop", "margin"),
    [*itertools.product(FITS, ("whole", "auto"), (0.0, 0.28)), ("cover", "landmarks", 0.0),
     ("cover", "face", 0.0), ("contain", "box", 0.0), ("stretch", "box", 32 / 224)],
)  # fmt: skip
def test_all_ways_give_the_same_bytes(fit, crop, margin):
    plain, faces = config(fit, crop, margin), source()
    wanted = evaluated(plain, faces)
    kept = evaluated(config(fit, crop, margin, cache="memory", cache_megabytes=64), faces)
    some = evaluated(config(fit, crop, margin, cache="memory", cache_megabytes=0.05), faces)
    for other in (kept, some):
        for name in wanted:
            np.testing.assert_array_equal(wanted[name], other[name])
    seen = Preprocessing.of_config(plain)
    assert seen.framing == Preprocessing(**vars(seen)).framing  # as a model directory keeps it
    for i, raw in enumerate(raw_pictures()):
        picture = decode(raw) if isinstance(raw, bytes) else raw
        record = faces[i]
        own = seen.pixels(picture, record["landmarks"], record["box"])
        np.testing.assert_array_equal(own, wanted["image"][i], err_msg=str(i))


def test_runs_in_one_process_share_finished_pictures():
    section = config("cover", "auto", cache="memory", cache_megabytes=64)
    alone = evaluated(section, source())
    cache = DataCache()
    for _ in range(2):
        together = evaluated(section, source(), cache)
        np.testing.assert_array_equal(together["image"], alone["image"])


def test_worker_processes_give_the_same_bytes():
    plain = evaluated(config("contain", "auto", 0.28), source())
    working = evaluated(config("contain", "auto", 0.28, num_workers=1, cache="memory"), source())
    for name in plain:
        np.testing.assert_array_equal(plain[name], working[name])


def test_training_without_draws_sees_what_evaluation_sees():
    section = config("cover", "auto")
    section.data.augment, section.data.augment_overrides = "none", {"fit": "cover"}
    wanted = evaluated(section, source())
    for cache in ("none", "memory"):
        section.data.cache = cache
        with make_pipeline(section.data, source(), train=True, batch_size=9) as batches:
            for _ in range(9):
                batch = next(batches)
                np.testing.assert_array_equal(batch["image"], wanted["image"][batch["index"]])
    picture = noisy(129, 128)
    still, _ = transforms.augment(picture, params=Params(random_crop=False), size=SIZE)
    np.testing.assert_array_equal(still, Framing(SIZE).pixels(picture))


def dotted(height, width, x, y):
    """A soft dot around pixel (x, y), with all 68 landmarks of the record on it but two."""
    rows, columns = np.mgrid[:height, :width]
    reach = 0.05 * min(height, width)
    dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / reach**2)
    points = np.full((68, 2), [x, y], np.float32)
    points[1], points[2] = [0.02 * width, 0.02 * height], [0.98 * width, 0.98 * height]
    return dot.round().astype(np.uint8), points


@pytest.mark.parametrize("preset", [{}, {"brightness": 1e-9}, {"flip": 1e-9}])
@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("crop", ["whole", "landmarks"])
def test_landmarks_stay_on_what_they_mark(preset, cache, crop):
    """In evaluation, and in training, where JPEG files are decoded at a fraction of their size."""
    images, points = [], []
    for size in (60, 61, 127, 128, 129, 255, 257, 299, 350, 351, 600):
        for where in (0.4, 0.63):
            image, own = dotted(size, size + 1, where * size, (1 - where) * size)
            stored = np.ascontiguousarray(image[::-1, ::-1])  # as a camera held upside down has it
            for raw in (image, encode(image, "PNG"), encode(image, quality=98), turned(stored, 3)):
                images.append(raw)
                points.append(own)
    faces = Listed(images, landmarks=points)
    section = config("cover", crop, cache=cache, crop_scale=1.1)
    section.data.augment, section.data.augment_overrides = "none", preset
    drawn = bool(preset)
    with make_pipeline(section.data, faces, train=drawn, batch_size=8) as batches:
        seen = list(itertools.islice(batches, 11))
    assert sum(b["mask"].sum() for b in seen) == 88
    for batch in seen:
        for image, (x, y), index in zip(
            batch["image"], batch["landmarks"][:, 0], batch["index"], strict=True
        ):
            rows, columns = np.mgrid[:SIZE, :SIZE]
            mass = np.where(image[..., 0] > 8, image[..., 0], 0).astype(float)
            found = np.array([(mass * columns).sum(), (mass * rows).sum()]) / mass.sum()
            assert np.abs(found - [x, y]).max() < 0.05, (index, found, x, y)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("k", [2, 4, 8])
def test_shrunk_pictures_begin_at_the_corner_that_is_shown_first(orientation, k):
    data = turned(smooth(203, 150, 2), orientation)
    whole = decode(data)
    image, factor, height, width = decode_shrunk(data, lambda height, width: k)
    assert (factor, height, width) == (k, *whole.shape[:2])
    assert image.shape[:2] == (-(-height // k), -(-width // k))
    rows, columns = height // k, width // k
    means = whole[: rows * k, : columns * k].reshape(rows, k, columns, k, 3).mean((1, 3))
    assert np.abs(image[:rows, :columns] - means).max() < 8


def test_tiny_files_are_shrunk_as_asked():
    for shape in ((1, 1), (3, 3), (4, 6), (6, 200), (15, 15)):
        picture = smooth(*shape)
        for k in (2, 4, 8):
            image, *_ = decode_shrunk(encode(picture, quality=98), lambda h, w, k=k: k)
            assert image.shape[:2] == (-(-shape[0] // k), -(-shape[1] // k))


def test_a_landmark_frame_is_not_judged_by_a_picture_on_its_side():
    picture = smooth(120, 400)
    points = np.full((1, 68, 2), 60, np.float32)
    points[0, :, 1] = np.linspace(300, 380, 68)  # inside once the picture is turned
    points[0, ::2, 0] += 30
    faces = Listed([turned(picture, 6)], landmarks=points)
    section = config("cover", "landmarks")
    for train in (False, True):
        with make_pipeline(section.data, faces, train=train, batch_size=1) as batches:
            assert next(batches)["mask"].all()


def test_points_come_back_from_the_output():
    seen = Framing(SIZE, "contain", margin=0.2)
    frame = seen.frame(90, 131)
    points = np.random.default_rng(0).uniform(0, 90, (5, 2))
    moved = landmarks.move_landmarks(points, seen.matrix(frame), False)
    back = seen.to_image((moved + 0.5) / SIZE, frame)
    np.testing.assert_allclose(back, points, atol=1e-3)
    assert seen.frame(90, 131) == Frame(65.5, 45, 131, 131)


def test_frames_that_miss_the_picture():
    seen = Framing(SIZE, crop="box", crop_scale=1.0)
    far = np.float32([900, 900, 950, 950])
    with pytest.raises(DecodeError, match="outside the image"):
        seen.pixels(noisy(50, 50), seen.frame(50, 50, None, far))
    # Without a scale it is not known what training cut out.
    assert Framing(SIZE, crop="box").frame(50, 40, None, far) == Frame(20, 25, 40, 40)
    Frame(20, 25, 40, 40).check(50, 40)


def test_a_box_without_its_forehead_spans_what_landmarks_span():
    box = np.float32([100, 80, 200, 200])  # 20 of its 120 rows are forehead
    points = np.float32([[99.5, 99.5], [199.5, 199.5]])
    seen = Framing(SIZE, crop="face", crop_scale=1.5)
    assert seen.frame(400, 400, None, box) == pytest.approx((150, 150, 150, 150))
    assert seen.frame(400, 400, points, box) == pytest.approx((150, 150, 150, 150))
    assert Framing(SIZE, crop_scale=1.5).frame(400, 400, None, box) == (150, 140, 165, 165)
    assert seen.frame(400, 400) == (200, 200, 400, 400)


def test_the_readers_of_a_config_know_its_crop():
    for crop, scale in (
        ("auto", 20 / 11),
        ("face", 20 / 11),
        ("landmarks", 20 / 11),
        ("box", 20 / 11),
        ("whole", 0),
    ):
        seen = Preprocessing.of_config(config("cover", crop))
        assert (seen.crop, seen.crop_scale) == (crop, scale)
    assert Preprocessing.of_config(config("cover", "box", crop_scale=1.3)).crop_scale == 1.3
