"""The crop of a detected face, for a model that was trained on whole images of one face each."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from affect_jax import batches
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
    with a line in the log, if the images are not at hand or too few show a face.

    Args:
      preprocessing: of the run's evaluation.
      config: of the run.
    """
    try:
        source = batches.make_sources(config)["train"]
        if batches.n_features(source):
            return preprocessing
        return measured(preprocessing, source)
    except (DataError, OSError, ValueError) as error:
        log.info(
            "the place of the faces in the training images is not measured%s: %s",
            "" if preprocessing.crops_faces else ", so predict takes images whole",
            error,
        )
        return preprocessing


def measured(
    preprocessing: Preprocessing, source: Source, detector: Detector | None = None
) -> Preprocessing:
    """Return the preprocessing with `face_scale` and `face_shift` of images of `source`.

    They are medians over the best face of up to 64 images, spread evenly. Without enough faces, or
    if the images are cropped to landmarks or boxes of their own, the preprocessing stays as it is.

    Args:
      preprocessing: of the model.
      source: of training images.
      detector: finds faces; default: the one that comes with the package.
    """
    places = np.unique(np.linspace(0, len(source) - 1, min(_IMAGES, len(source))).astype(int))
    found: list[tuple[float, float, float]] = []
    looked = 0
    for i in places.tolist():
        try:
            record = source[i]
            image = record["image"]
            image = decode(image) if isinstance(image, bytes) else image
        except (OSError, DataError, DecodeError):
            continue  # training has reported it
        if _is_cropped(preprocessing, image.shape[:2], record):
            return preprocessing
        detector = detector or default_detector()
        looked += 1
        faces = detector(image)
        if len(faces.boxes):
            found.append(_place(preprocessing, image.shape[:2], faces.boxes[0].astype(float)))
    if len(found) < _LEAST:
        log.info(
            "%d of %d training images show a face, too few to measure where; predict takes images "
            "whole",
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


def _is_cropped(
    preprocessing: Preprocessing, shape: tuple[int, int], record: Mapping[str, Any]
) -> bool:
    """Return whether training cuts an image out by its landmarks or box."""
    framing, (height, width) = preprocessing.framing, shape
    own = framing.frame(height, width, record.get("landmarks"), record.get("box"))
    return own != framing.frame(height, width)


def _place(
    preprocessing: Preprocessing, shape: tuple[int, int], box: np.ndarray
) -> tuple[float, float, float]:
    """Return side and centre of what training shows, in units of a face's box from its centre."""
    frame = preprocessing.framing.frame(*shape)
    size = float(box[2] - box[0] + box[3] - box[1]) / 2
    x, y = (box[:2] + box[2:]) / 2
    side = (frame.width + frame.height) / 2
    return side / size, (frame.x - x) / size, (frame.y - y) / size
