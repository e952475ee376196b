"""The crop of a detected face, for a model that was trained on whole images of one face each."""

import collections
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import cv2
import ml_collections
import numpy as np

from affect_jax import batches
from affect_jax.errors import UserError
from affect_jax.inference.detection import default_detector
from affect_jax.inference.faces import Detector
from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.images.decode import decode
from data_pipelines.schema import DataError, DecodeError, Source

log = logging.getLogger(__name__)

_IMAGES = 64  # that are looked at
_LEAST = 8  # faces that a measurement needs


def with_face_crop(
    preprocessing: Preprocessing, config: ml_collections.ConfigDict
) -> Preprocessing:
    """Return the preprocessing with the place of faces in the training images of a run.

    It is measured only if training framed whole images. The preprocessing is returned as it is,
    with a line in the log, if the images are not at hand or too few show a face. The crop "auto"
    becomes what the images are cropped to.

    Args:
      preprocessing: of the run's evaluation.
      config: of the run.

    Raises:
      UserError: the detector cannot run.
    """
    try:
        source = batches.make_sources(config)["train"]
        if batches.n_features(source):
            return preprocessing
        return measured(preprocessing, source)
    except UserError:
        raise
    except (DataError, OSError, ValueError) as error:
        log.warning(
            "the place of the faces in the training images is not measured%s: %s",
            "" if preprocessing.crops_faces else ", so predict has to guess their crop",
            error,
        )
        return preprocessing


def measured(
    preprocessing: Preprocessing, source: Source, detector: Detector | None = None
) -> Preprocessing:
    """Return the preprocessing with `face_scale` and `face_shift` of images of `source`.

    They are medians over the best face of up to 64 images, spread evenly. Without enough faces the
    preprocessing stays as it is. If the images are cropped to landmarks or boxes of their own, so
    does it, but for the crop "auto": that becomes "landmarks" or "box", the one of most images.

    Args:
      preprocessing: of the model.
      source: of training images.
      detector: finds faces; default: the one that comes with the package.
    """
    places = np.unique(np.linspace(0, len(source) - 1, min(_IMAGES, len(source))).astype(int))
    found: list[tuple[float, float, float]] = []
    looked, crops = 0, collections.Counter[str]()
    for i in places.tolist():
        try:
            record = source[i]
            image = record["image"]
            image = decode(image) if isinstance(image, bytes) else image
        except (OSError, DataError, DecodeError):
            continue  # training has reported it
        if crop := _crop(preprocessing, image.shape[:2], record):
            crops[crop] += 1
        if crops:
            continue
        detector = detector or default_detector()
        looked += 1
        faces = detector(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
        if len(faces.boxes):
            found.append(_place(preprocessing, image.shape[:2], faces.boxes[0].astype(float)))
    if crops and preprocessing.crop != "auto":
        return preprocessing
    if crops:
        return dataclasses.replace(preprocessing, crop=crops.most_common(1)[0][0])
    if len(found) < _LEAST:
        log.info(
            "%d of %d training images show a face, too few to measure where; predict has to guess "
            "their crop",
            len(found),
            looked,
        )
        return preprocessing
    scale, right, down = np.median(found, axis=0).round(4).tolist()
    log.info(
        "faces found in %d of %d training images; predict cuts out %.3g times their box",
        len(found),
        looked,
        scale,
    )
    return dataclasses.replace(preprocessing, face_scale=scale, face_shift=(right, down))


def _crop(preprocessing: Preprocessing, shape: tuple[int, int], record: Mapping[str, Any]) -> str:
    """Return what training cuts an image out by, "landmarks" or "box"; "" if it shows all of it."""
    framing, (height, width) = preprocessing.framing, shape
    landmarks, box = record.get("landmarks"), record.get("box")
    own = framing.frame(height, width, landmarks, box)
    if own == framing.frame(height, width):
        return ""
    return "box" if own == framing.frame(height, width, None, box) else "landmarks"


def _place(
    preprocessing: Preprocessing, shape: tuple[int, int], box: np.ndarray
) -> tuple[float, float, float]:
    """Return side and centre of what training shows, in units of a face's box from its centre."""
    frame = preprocessing.framing.frame(*shape)
    size = float(box[2] - box[0] + box[3] - box[1]) / 2
    x, y = (box[:2] + box[2:]) / 2
    side = (frame.width + frame.height) / 2
    return side / size, (frame.x - x) / size, (frame.y - y) / size
