"""68 landmarks found by a model, for `prepare --landmarks`.

This module imports `affect_jax` only to load a model.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.images.resampling import resample
from data_pipelines.schema import FOREHEAD, NUM_LANDMARKS, DataError

# Window of the released FAN detector (Bulat and Tzimiropoulos, 2017): a square of 200 pixels for a
# box whose width and height add up to 195, moved up by 0.12 of the box's height.
WINDOW_SIDE = 200.0
WINDOW_BOX = 195.0
WINDOW_LIFT = 0.12
_BATCH = 16

# `landmarker(images, boxes)` gives float32 [n, 68, 2] pixels for n uint8 RGB images [H, W, 3] and
# float32 [n, 4] face boxes (x0, y0, x1, y1), the forehead included.
Landmarker = Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray]


def load_landmarker(model: str) -> Landmarker:
    """Load a landmark model.

    Args:
      model: folder of a model with 68 heatmaps, as `affect_jax.convert` or training writes it.

    Raises:
      DataError: the model does not exist, or was not trained to find 68 landmarks in face crops.
    """
    import affect_jax
    from affect_jax.models.landmarks import decode_heatmaps

    try:
        predictor = affect_jax.load(model)
    except ValueError as e:
        raise DataError(f"--landmarks: {e}") from e
    loaded = predictor.loaded
    preprocessing, provenance = loaded.preprocessing, loaded.provenance
    decode = loaded.arguments.get("decode", "quarter")
    follows_landmarks = preprocessing.face_crop == "face"
    crop_scale = preprocessing.crop_scale if follows_landmarks else 0.0
    if not crop_scale and "workdir_config" in provenance:
        raise DataError(
            f"--landmarks: {model} was trained on whole images, not on face crops; train one with "
            "data.crop=auto, as configs/fan_synthetic.py does"
        )
    trained_for = provenance.get("trained_for")
    if trained_for is not None and "landmarks" not in trained_for:
        raise DataError(
            f"--landmarks: {model} was trained for {', '.join(trained_for)}, not for landmarks: "
            "its heatmaps are attention; train one as configs/fan_synthetic.py does"
        )

    def points(batch: np.ndarray) -> np.ndarray:
        heatmaps = predictor.outputs(batch).get("heatmaps")
        if heatmaps is None or heatmaps.shape[-1] != NUM_LANDMARKS:
            raise DataError(
                f"--landmarks: {model} has no {NUM_LANDMARKS} heatmaps; use a landmark model"
            )
        grid = np.asarray(decode_heatmaps(heatmaps, decode)[0])
        return grid / np.array(heatmaps.shape[2:0:-1], np.float32)

    return functools.partial(
        find_landmarks,
        points,
        size=preprocessing.image_size,
        crop_scale=crop_scale / (1 + preprocessing.margin),
    )


def find_landmarks(
    points: Callable[[np.ndarray], np.ndarray],
    images: Sequence[np.ndarray],
    boxes: np.ndarray,
    *,
    size: int,
    crop_scale: float = 0.0,
) -> np.ndarray:
    """Find the landmarks of n faces, each in a square window around its box.

    Args:
      points: maps windows uint8 [B, size, size, 3] to [B, 68, 2] in fractions of the window, 0 at
        its left and upper edge.
      images, boxes: see `Landmarker`.
      size: side of the windows in pixels.
      crop_scale: side of a window divided by the mean side of the box around the landmarks, as the
        model was trained; 0 takes the window of the FAN detector.
    """
    windows = np.zeros((-(-len(images) // _BATCH) * _BATCH, size, size, 3), np.uint8)
    corners, sides = np.empty((len(images), 2)), np.empty(len(images))
    for i, (image, box) in enumerate(zip(images, boxes, strict=True)):
        centre, sides[i] = face_window(box, crop_scale)
        corners[i] = centre - sides[i] / 2
        left, top = corners[i]
        windows[i] = resample(image, left, top, sides[i], sides[i], size)
    # Batches of one size, so that a model is compiled once.
    parts = np.concatenate(
        [points(windows[k : k + _BATCH]) for k in range(0, len(windows), _BATCH)]
    )
    found = corners[:, None] + parts[: len(images)] * sides[:, None, None] - 0.5
    return found.astype(np.float32)


def face_window(box: np.ndarray, crop_scale: float = 0.0) -> tuple[np.ndarray, float]:
    """Return centre and side of the window around a face box, edges at integers."""
    x0, y0, x1, y1 = (float(v) + 0.5 for v in box)  # from pixel centres to edges
    if crop_scale:
        y0 += FOREHEAD / (1 + FOREHEAD) * (y1 - y0)  # training framed the landmarks alone
        side = crop_scale * (x1 - x0 + y1 - y0) / 2
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2]), max(side, 1.0)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2 - WINDOW_LIFT * (y1 - y0)])
    return centre, max(WINDOW_SIDE / WINDOW_BOX * (x1 - x0 + y1 - y0), 1.0)


def face_box(landmarks: np.ndarray, box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the face box: around the landmarks, else `box`, else the whole image.

    Args:
      landmarks: float [68, 2] pixels, NaN where unknown.
      box: float [4] pixels, NaN where unknown.
      shape: of the image, [H, W, ...].
    """
    if np.isfinite(landmarks).all():
        (x0, y0), (x1, y1) = landmarks.min(0), landmarks.max(0)
        return np.array([x0, y0 - FOREHEAD * (y1 - y0), x1, y1], np.float32)
    if np.isfinite(box).all():
        return box
    return np.array([0, 0, shape[1] - 1, shape[0] - 1], np.float32)
