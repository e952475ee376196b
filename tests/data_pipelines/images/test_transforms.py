import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.images import framing, transforms
from data_pipelines.images import landmarks as landmarks_lib
from data_pipelines.images.framing import Frame, Framing
from data_pipelines.images.presets import PRESETS, Params, resolve
from data_pipelines.images.transforms import Draws
from data_pipelines.schema import FLIP_INDEX, DataError
from tests.data_pipelines.made_images import smooth


def spread_landmarks(size, seed=0):
    """68 points well inside a picture, far enough apart to be told apart when drawn."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(81)[:68]
    step = size / 11
    return np.stack([(cells % 9 + 1.5) * step, (cells // 9 + 1.5) * step], 1).astype(np.float32)


def frame_of(height, width, landmarks, box, params, crop="auto", crop_scale=0.0):
    return Framing.of(params, 1, crop, crop_scale).frame(height, width, landmarks, box)


GRAINY = smooth(64, 64) // 2 + np.random.default_rng(0).integers(0, 60, (64, 64, 3), np.uint8)


def run(image, landmarks=None, *, size=None, **fields):
    where = {k: fields.pop(k) for k in ("seed", "epoch", "index", "box") if k in fields}
    params = Params(**{"box_scale": 1.0, **fields})
    return transforms.augment(image, landmarks, params=params, size=size or len(image), **where)


def test_identity_parameters_return_the_image():
    image = smooth(64, 64)
    out, landmarks = run(image)
    np.testing.assert_array_equal(out, image)
    assert landmarks is None
    grey = np.ascontiguousarray(image[..., 0])
    np.testing.assert_array_equal(run(grey)[0], np.dstack([grey] * 3))


def test_a_frame_that_is_the_picture_keeps_landmarks():
    points = spread_landmarks(64)
    draws = Draws(Params(), 64, 0, np.zeros(1), np.zeros(1))
    matrix = draws.matrix(0, Frame(32, 32, 64, 64))
    np.testing.assert_array_equal(landmarks_lib.move_landmarks(points, matrix, False), points)


def test_flip_is_exact_for_pixels_and_landmarks():
    image, points = smooth(64, 64), spread_landmarks(64)
    draws = Draws(Params(flip=1.0), 64, 0, np.zeros(1), np.zeros(1))
    assert draws.flip == [True]
    out = np.empty_like(image)
    matrix = draws.apply(0, image, Frame(32, 32, 64, 64), out)
    np.testing.assert_array_equal(out, image[:, ::-1])
    moved = landmarks_lib.move_landmarks(points, matrix, True)
    np.testing.assert_allclose(moved[:, 0], 63 - points[FLIP_INDEX, 0], atol=1e-4)
    np.testing.assert_allclose(moved[:, 1], points[FLIP_INDEX, 1], atol=1e-4)


@given(st.integers(0, 2**31), st.integers(16, 80))
@settings(max_examples=20, deadline=None)
def test_flip_twice_is_the_identity(seed, size):
    image, points = smooth(size, size, seed), spread_landmarks(size, seed)
    frame = Frame(size / 2, size / 2, size, size)
    draws = Draws(Params(flip=1.0), size, seed, np.zeros(1), np.zeros(1))
    once, twice = np.empty_like(image), np.empty_like(image)
    matrix = draws.apply(0, image, frame, once)
    draws.apply(0, once, frame, twice)
    np.testing.assert_array_equal(twice, image)
    back = landmarks_lib.move_landmarks(
        landmarks_lib.move_landmarks(points, matrix, True), matrix, True
    )
    np.testing.assert_allclose(back, points, atol=1e-3)


@given(seed=st.integers(0, 2**31), index=st.integers(0, 2**40), corner=st.integers(0, 67))
@settings(max_examples=60, deadline=None)
def test_a_dot_drawn_at_a_landmark_stays_under_its_coordinate(seed, index, corner):
    points = spread_landmarks(160, seed % 5)
    params = resolve(
        "arbex_heavy",
        {"brightness": 0, "contrast": 0, "blur": 0, "noise": 0, "jpeg": 0, "erase": 0, "hue": 0}
        | {"saturation": 0, "grey": 0, "rotation": 40.0, "scale": 0.3, "translation": 0.1},
    )
    image = np.zeros((160, 160), np.uint8)
    cv2.circle(image, tuple(points[corner].round().astype(int).tolist()), 3, 255, -1)
    # Drawn at a rounded place: put the landmark exactly there.
    points[corner] = points[corner].round()
    out, moved = transforms.augment(image, points, params=params, size=128, seed=seed, index=index)
    # After a flip the point has changed its number, by the mirror's table.
    draws = Draws(params, 128, seed, np.zeros(1), np.array([index]))
    number = int(np.flatnonzero(corner == FLIP_INDEX)[0]) if draws.flip[0] else corner
    x, y = moved[number]
    if not (5 <= x < 123 and 5 <= y < 123):
        return
    ys, xs = np.nonzero(out[..., 0] > 100)
    weight = out[ys, xs, 0].astype(float)
    centre = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
    assert np.abs(centre - [x, y]).max() < 0.35


def test_pixels_follow_the_stated_matrix():
    image = smooth(90, 120)
    params = Params(rotation=30, scale=0.2, translation=0.1)
    draws = Draws(params, 64, 3, np.zeros(1), np.zeros(1))
    out = np.empty((64, 64, 3), np.uint8)
    matrix = draws.apply(0, image, frame_of(90, 120, None, None, params), out)
    inverse = cv2.invertAffineTransform(matrix)
    for x, y in [(20, 20), (32, 40), (45, 30)]:
        sx, sy = inverse @ [x, y, 1]
        patch = cv2.getRectSubPix(image, (1, 1), (sx, sy))[0, 0]
        assert np.abs(patch.astype(int) - out[y, x]).max() <= 2


def test_every_choice_is_a_function_of_seed_epoch_and_index():
    image, points = smooth(64, 64), spread_landmarks(64)
    params = PRESETS["arbex_heavy"]

    def draw(seed, epoch, index):
        return transforms.augment(
            image, points, params=params, size=48, seed=seed, epoch=epoch, index=index
        )[0]

    first = draw(1, 2, 3)
    draw(5, 6, 7)
    np.testing.assert_array_equal(draw(1, 2, 3), first)
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)]:
        assert (draw(*other) != first).any()


def test_draws_in_a_batch_equal_draws_alone():
    image = smooth(64, 64)
    frame = Frame(32, 32, 64, 64)
    epochs, indices = np.array([4, 4, 5]), np.array([9, 10, 11])
    together = Draws(PRESETS["arbex_heavy"], 32, 7, epochs, indices)
    for k in range(3):
        alone = Draws(PRESETS["arbex_heavy"], 32, 7, epochs[k : k + 1], indices[k : k + 1])
        a, b = np.empty((2, 32, 32, 3), np.uint8)
        together.apply(k, image, frame, a)
        alone.apply(0, image, frame, b)
        np.testing.assert_array_equal(a, b)


def test_uniforms_are_uniform_and_independent():
    u = transforms.uniforms(3, np.zeros(20_000, int), np.arange(20_000), 4)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.var() - 1 / 12) < 0.002
    correlation = np.corrcoef(np.c_[u[:-1], u[1:]].T) - np.eye(8)
    assert np.abs(correlation).max() < 0.03
    np.testing.assert_array_equal(transforms.uniforms(3, np.zeros(9), np.arange(9), 2), u[:9, :2])
    # Neither (epoch, index) nor (seed, epoch) may be swapped.
    one, two = np.array([1]), np.array([2])
    assert transforms.uniforms(0, one, two, 1) != transforms.uniforms(0, two, one, 1)
    assert transforms.uniforms(1, two, one, 1) != transforms.uniforms(2, one, one, 1)


def test_colour_identity_and_factors():
    image = smooth(32, 32)
    np.testing.assert_array_equal(run(image, grey=1e-12)[0], image)  # the matrix path, unchanged
    bright, _ = run(image // 2, brightness=0.5, seed=1)
    ratio = bright.astype(float).sum() / (image // 2).sum()
    span = 2 * transforms.uniforms(1, np.zeros(1), np.zeros(1), len(transforms._DRAWS))[0] - 1
    expected = 1 + 0.5 * span[transforms._DRAWS.index("brightness")]
    assert abs(ratio - expected) < 0.01


def test_grey_and_hue():
    image = smooth(32, 32)
    grey, _ = run(image, grey=1.0)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= 1
    # A turn of colours keeps the luma of pixels that are not clipped, and greys.
    pale = (image // 8 + 110).astype(np.uint8)
    turned, _ = run(pale, hue=0.5, seed=2)
    assert np.abs(turned.astype(int) - pale).max() > 3
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(turned @ weights - pale @ weights).max() < 1.5


def test_grey_planes_get_the_colours_that_their_rgb_copies_get():
    grey = np.ascontiguousarray(smooth(64, 64)[..., 1])
    colours = dict(brightness=0.4, contrast=0.4, saturation=0.5, hue=0.2, rotation=20, flip=0.5)
    for index in range(8):
        plane, _ = run(grey, index=index, **colours)
        full, _ = run(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), index=index, **colours)
        assert np.abs(plane.astype(int) - full).max() <= 1


@pytest.mark.parametrize("image", [GRAINY, GRAINY[..., 0].copy()])
@pytest.mark.parametrize("what", ["blur", "noise", "jpeg", "erase"])
def test_degradations_change_the_picture_and_keep_its_mean(what, image):
    out, _ = run(image, seed=3, **{what: 1.0})
    plain, _ = run(image)
    changed = np.abs(out.astype(int) - plain)
    assert changed.max() > 0
    if what == "erase":
        assert 0.015 < (changed.max(2) > 0).mean() < 0.25
    else:
        assert abs(out.mean() - plain.mean()) < 2


def test_noise_has_the_stated_strength():
    image = np.full((128, 128, 3), 128, np.uint8)
    out, _ = run(image, noise=1.0, noise_std=20, seed=1)
    u = transforms.uniforms(1, np.zeros(1), np.zeros(1), len(transforms._DRAWS))[0]
    expected = 20 * u[transforms._DRAWS.index("noise_std")]
    assert abs(out.astype(float).std() - expected) < 0.6
    assert abs(out.mean() - 128) < 0.5


def test_erasing_keeps_to_its_area():
    image = np.full((100, 100, 3), 77, np.uint8)
    shares = [
        (run(image, erase=1.0, erase_area=0.1, index=i)[0] != 77).any(2).mean() for i in range(40)
    ]
    assert max(shares) < 0.12 and np.mean(np.array(shares) > 0.01) > 0.9


def test_frames():
    params = Params(box_scale=2.0)
    points = np.array([[10, 20], [29, 59]] * 34, np.float32)
    box = np.array([0, 0, 40, 20], np.float32)
    # Landmarks are pixel centres: their middle lies half a pixel further in edge coordinates.
    assert frame_of(100, 100, points, box, params) == Frame(20, 40, 58, 58)
    assert frame_of(100, 100, points, box, params, "box") == Frame(20, 10, 60, 60)
    assert frame_of(100, 100, None, box, params, "auto", 1.0) == Frame(20, 10, 30, 30)
    assert frame_of(60, 100, points, box, params, "whole") == Frame(50, 30, 60, 60)
    assert frame_of(60, 100, None, None, Params(fit="contain")) == Frame(50, 30, 100, 100)
    assert frame_of(60, 100, None, None, Params(fit="stretch")) == Frame(50, 30, 100, 60)
    missing = np.full((68, 2), np.nan, np.float32)
    assert frame_of(60, 100, missing, box * np.nan, params) == Frame(50, 30, 60, 60)
    with pytest.raises(DataError, match="whole"):
        frame_of(1, 1, None, None, params, "landmark")


def test_margin_crops_the_middle_in_evaluation_and_anywhere_in_training():
    image = smooth(64, 64)
    evaluation = Params(margin=1.0).framing_only()
    middle, _ = transforms.augment(image, params=evaluation, size=32)
    np.testing.assert_array_equal(middle, image[16:48, 16:48])
    corners = set()
    for index in range(40):
        draws = Draws(Params(margin=1.0), 32, 0, np.zeros(1), np.array([index]))
        matrix = draws.matrix(0, Frame(32, 32, 64, 64))
        corners.add(tuple((-matrix[:, 2]).round(1)))
    x, y = np.array(sorted(corners)).T
    assert -0.6 <= min(x.min(), y.min()) < 5 and 27 < max(x.max(), y.max()) <= 32.6
    # In evaluation nothing is drawn.
    params = PRESETS["arbex_heavy"].framing_only()
    first = Draws(params, 32, 0, np.zeros(1), np.zeros(1)).matrix(0, Frame(32, 32, 64, 64))
    other = Draws(params, 32, 9, np.ones(1), np.ones(1)).matrix(0, Frame(32, 32, 64, 64))
    np.testing.assert_array_equal(first, other)


@given(st.integers(0, 2**20))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_in_memory_holds_all_that_a_draw_can_show(index):
    image, points = smooth(200, 200, 1), spread_landmarks(200) * 0.4 + 50
    params = Params(rotation=25, scale=0.2, translation=0.05, flip=0.5, box_scale=1.2)
    frame = frame_of(200, 200, points, None, params)
    draws = Draws(params, 96, 1, np.zeros(1), np.array([index]))
    whole, kept = np.empty((2, 96, 96, 3), np.uint8)
    matrix = draws.apply(0, image, frame, whole)
    cut, cut_points, cut_frame = framing.cut_to_reach(image, points, frame, params, 96.0)
    assert cut.shape[0] < 200
    cut_matrix = draws.apply(0, cut, cut_frame, kept)
    np.testing.assert_allclose(
        landmarks_lib.move_landmarks(points, matrix, False),
        landmarks_lib.move_landmarks(cut_points, cut_matrix, False),
        atol=1e-3,
    )
    assert np.abs(whole.astype(int) - kept).max() <= 3


def test_kept_pictures_are_shrunk_to_what_the_output_needs():
    image = smooth(400, 300)
    params = Params(fit="cover")
    frame = frame_of(400, 300, None, None, params)
    cut, _, small = framing.cut_to_reach(image, None, frame, params, 50.0)
    assert cut.shape[:2] == (65, 65) and abs(small.width - 65) < 1e-9


def test_frames_outside_the_picture_are_told():
    assert Frame(-5, 10, 12, 4).touches(20, 30)
    assert not Frame(-5, 10, 10, 4).touches(20, 30)
    assert not Frame(10, 26, 4, 12).touches(20, 30)
    assert Frame(10, 25, 4, 12).touches(20, 30)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_deliver_what_the_contract_says(name):
    out, points = transforms.augment(
        smooth(100, 80), spread_landmarks(80), params=PRESETS[name], size=64, seed=1, index=5
    )
    assert out.shape == (64, 64, 3) and out.dtype == np.uint8
    assert points.shape == (68, 2) and points.dtype == np.float32


def test_resolve_reports_what_is_wrong():
    assert resolve("emofan", {"rotation": 3.0, "flip": None}).rotation == 3.0
    assert resolve("emofan", {"flip": None}).flip == PRESETS["emofan"].flip
    with pytest.raises(DataError, match="known: none"):
        resolve("heavy")
    with pytest.raises(DataError, match="did you mean 'rotation'"):
        resolve("none", {"rotaton": 1})
    with pytest.raises(DataError, match="cover"):
        resolve("none", {"fit": "crop"})
    with pytest.raises(DataError, match="scale"):
        resolve("none", {"scale": 1.0})
