"""The detector that comes with the package, and the crop that a model sees of a face."""

import math
from collections.abc import Callable

import cv2
import numpy as np

from affect_jax.inference.blazeface.detector import BlazeFace
from affect_jax.inference.faces import Detector, Faces
from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.images.decode import shrink_by
from data_pipelines.images.framing import halving

# A face turned by more is turned upright before it is cropped. Training turns faces by up to 18
# degrees, so up to here they look as in training.
UPRIGHT = 25.0
# Half the side of the square in which it is turned, over the longer side of its box, at least.
_REACH = 1.5
_FILTER = 2  # pixels round a crop that resizing it reads


def default_detector() -> Detector:
    """Return the detector that comes with the package; see `blazeface.BlazeFace`."""
    return BlazeFace()


def crop(
    image: np.ndarray, faces: Faces, i: int, preprocessing: Preprocessing
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return what a model sees of a face: the crop that training makes of it.

    Args:
      image: uint8 [H, W, 3] RGB, in which the faces were found.
      faces, i: the faces and the number of one.
      preprocessing: of the model; see `Preprocessing.face_frame` for the rule.

    Returns:
      uint8 [S, S, 3], and a function that converts fractions [..., 2] of it, such as landmarks, to
      pixels of the image (pixel centres at integers).

    Raises:
      DecodeError: the face lies outside the image.
    """
    box, roll = faces.boxes[i].astype(float), float(faces.rolls[i])
    framing, (height, width) = preprocessing.framing, image.shape[:2]
    frame = preprocessing.face_frame(box, height, width)
    frame.check(height, width)
    if abs(roll) <= UPRIGHT or not preprocessing.crops_faces:
        return framing.pixels(image, frame), lambda parts: framing.to_image(parts, frame)
    # A large face is shrunk first, so that turning it costs neither memory nor sharpness.
    k = halving(frame, framing.size)
    upright, box, matrix = _turned(shrink_by(image, k), box / k, roll, preprocessing)
    frame = preprocessing.face_frame(box, *upright.shape[:2])
    back = cv2.invertAffineTransform(matrix)

    def to_image(parts: np.ndarray) -> np.ndarray:
        places = framing.to_image(parts, frame) @ back[:, :2].T + back[:, 2]
        return (places + 0.5) * k - 0.5

    return framing.pixels(upright, frame), to_image


def _turned(
    image: np.ndarray, box: np.ndarray, roll: float, preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a square around a face, turned upright; its box in it; and the way there.

    The square holds all that a model sees of the face.
    The way is float64 [2, 3], from pixel centres of the image to those of the square.
    """
    quarter = 90.0 * round(roll / 90)
    turn = quarter if abs(roll - quarter) <= UPRIGHT else roll
    centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    if abs(math.sin(math.radians(turn))) > math.sqrt(0.5):
        sides = sides[::-1]
    seen = preprocessing.face_frame(np.concatenate([-sides, sides]) / 2, 1, 1)
    across, down = abs(seen.x) + seen.width / 2, abs(seen.y) + seen.height / 2
    half = math.ceil(max(_REACH * sides.max(), max(across, down) + _FILTER))
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), turn, 1.0)
    matrix[:, 2] = half - 0.5 - matrix[:, :2] @ (centre - 0.5)
    square = cv2.warpAffine(image, matrix, (2 * half, 2 * half))
    return square, np.concatenate([half - sides / 2, half + sides / 2]), matrix
