"""The two networks of BlazeFace, run by OpenCV, and how their outputs become boxes.

OpenCV is needed anyway, opens both files in 15 ms without compiling, and runs them in 3 and 9 ms on
2 cores. Its older engine is asked for where there are two: the new one of OpenCV 5 reads these
files wrong. A network that does not give known numbers for a known input is refused.
"""

import dataclasses
import functools
import math
import pathlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from affect_jax.errors import UserError
from data_pipelines.images.resampling import resample

_FOLDER = pathlib.Path(__file__).parent
POINTS = 6
_MAX_LOGIT = 80.0
_PROBE_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the two networks.

    Attributes:
      file: its name.
      size: side of the input in pixels.
      grids: (cells a side, anchors a cell), in the order of the outputs.
      outputs: names of the scores and of the boxes.
      probe: mean score and mean of all box numbers for the input of `_probe`.
    """

    file: str
    size: int
    grids: tuple[tuple[int, int], ...]
    outputs: tuple[str, str]
    probe: tuple[float, float]

    @functools.cached_property
    def anchors(self) -> np.ndarray:
        """Return the centres of the anchors, float32 [A, 2] fractions of the input."""
        parts = []
        for cells, repeats in self.grids:
            centres = (np.arange(cells, dtype=np.float32) + 0.5) / cells
            y, x = np.meshgrid(centres, centres, indexing="ij")
            parts.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), repeats, axis=0))
        return np.concatenate(parts)


SHORT = Variant(
    "short_range.tflite",
    128,
    ((16, 2), (8, 6)),
    ("classificators", "regressors"),
    (0.034226, 14.2398),
)
FULL = Variant(
    "full_range.tflite",
    192,
    ((48, 1),),
    ("reshaped_classifier_face_4", "reshaped_regressor_face_4"),
    (0.0037214, 13.3030),
)


class Candidates(NamedTuple):
    """What a network gives before suppression, in pixels of the image.

    Attributes:
      boxes: float32 [n, 4], squares from the forehead to the chin.
      points: float32 [n, 6, 2].
      scores: float32 [n].
    """

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray

    def each(self) -> Iterator["Candidates"]:
        """Yield the candidates one by one."""
        for i in range(len(self.scores)):
            yield Candidates(*(values[i : i + 1] for values in self))


NOTHING = Candidates(
    np.zeros((0, 4), np.float32), np.zeros((0, POINTS, 2), np.float32), np.zeros(0, np.float32)
)


class Square(NamedTuple):
    """A square part of an image, in pixels; edges of the first pixel are at 0 and 1."""

    left: float
    top: float
    side: float


class Network:
    """One network. Several threads may use it; it can be pickled."""

    def __init__(self, variant: Variant):
        self.variant = variant
        self._local = threading.local()

    def __reduce__(self):
        return Network, (self.variant,)

    def pixels(self, image: np.ndarray, square: Square) -> np.ndarray:
        """Return the square of a uint8 [H, W, 3] image as the network's input, before scaling."""
        left, top, side = square
        return resample(image, left, top, side, side, self.variant.size)

    def find(
        self, pixels: np.ndarray, square: Square, threshold: float, quarters: int = 0
    ) -> Candidates:
        """Return the candidates in a square of an image.

        Args:
          pixels: see `pixels`.
          square: the same that was given there.
          threshold: the least score.
          quarters: turns of the pixels by 90 degrees, counterclockwise, before the search.
        """
        scores, numbers = self._run(np.ascontiguousarray(np.rot90(pixels, quarters)))
        kept = np.flatnonzero(scores >= threshold)
        boxes = numbers[kept].reshape(-1, 2 + POINTS, 2) / np.float32(self.variant.size)
        centres = boxes[:, :1] + self.variant.anchors[kept, None]
        points = boxes[:, 2:] + self.variant.anchors[kept, None]
        # Boxes are squares, so that a turn moves their centres alone.
        x, y = np.moveaxis(np.concatenate([centres, points], 1), -1, 0)
        x, y = ((x, y), (1 - y, x), (1 - x, 1 - y), (y, 1 - x))[quarters % 4]
        places = np.stack([x, y], -1) * square.side + (square.left, square.top)
        half = boxes[:, 1] / 2 * square.side
        corners = np.concatenate([places[:, 0] - half, places[:, 0] + half], -1)
        return Candidates(
            corners.astype(np.float32), places[:, 1:].astype(np.float32), scores[kept]
        )

    def _run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scores [A] and box numbers [A, 16] for uint8 [S, S, 3]."""
        net = getattr(self._local, "net", None)
        if net is None:
            net = self._local.net = _open(self.variant)
        return _forward(net, self.variant, pixels)


def _forward(
    net: cv2.dnn.Net, variant: Variant, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    net.setInput(cv2.dnn.blobFromImage(pixels, 1 / 127.5, mean=(127.5, 127.5, 127.5)))
    logits, numbers = net.forward(variant.outputs)
    logits = np.clip(logits.reshape(-1), -_MAX_LOGIT, _MAX_LOGIT)
    return 1 / (1 + np.exp(-logits)), numbers.reshape(len(logits), -1)


def _open(variant: Variant) -> cv2.dnn.Net:
    path = str(_FOLDER / variant.file)
    engine = getattr(cv2.dnn, "ENGINE_CLASSIC", None)
    try:
        net = cv2.dnn.readNetFromTFLite(path, *(() if engine is None else (engine,)))
        scores, numbers = _forward(net, variant, _probe(variant.size))
        found = (float(scores.mean()), float(np.abs(numbers).mean()))
    except cv2.error:
        found = (math.nan, math.nan)
    if not np.allclose(found, variant.probe, rtol=_PROBE_TOLERANCE, atol=0):
        raise UserError(
            f"OpenCV {cv2.__version__} does not run the face detector as it should ({variant.file} "
            f"gives {found}, not {variant.probe}); install opencv-python-headless 4.10 to 5.0, or "
            "give boxes of your own"
        )
    return net


def _probe(size: int) -> np.ndarray:
    """Return a fixed picture: a drawn face, uint8 [size, size, 3]."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    picture = np.full((size, size, 3), 60, np.uint8)
    picture[(x / 0.27) ** 2 + (y / 0.36) ** 2 < 1] = (225, 180, 150)
    for side in (-0.11, 0.11):
        picture[((x - side) / 0.06) ** 2 + ((y + 0.07) / 0.03) ** 2 < 1] = (40, 30, 30)
    picture[(x / 0.1) ** 2 + ((y - 0.17) / 0.03) ** 2 < 1] = (150, 60, 60)
    return picture
