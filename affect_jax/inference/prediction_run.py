"""Predict the faces of photos and videos: settings, and the table as a data frame."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from affect_jax.errors import UserError
from affect_jax.inference import inputs as inputs_lib
from affect_jax.inference.detection import default_detector
from affect_jax.inference.face_predictions import FacePredictions
from affect_jax.inference.face_scorer import FaceScorer
from affect_jax.inference.face_table import FaceTable
from affect_jax.inference.faces import Detector
from affect_jax.inference.frames import FrameReader, KnownFaces
from affect_jax.inference.image_inputs import ImageInput, each, is_path
from affect_jax.inference.inputs import Item
from affect_jax.inference.predictor import Predictor
from data_pipelines.loading.options import usable_cores

if TYPE_CHECKING:
    import pandas

BATCH_SIZE = 32
# Fields of `Settings` in which a command may differ from the one that it resumes. Another batch
# size is another program, which changes scores by the last digits of float32.
_SPEED = ("batch_size", "workers")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines the rows of a table, and how fast they come.

    Attributes:
      detect: find faces; False: an image is a crop already, or all faces are given.
      max_faces: faces of a frame, those of the highest scores; 0: all.
      fps: frames a second of a video that are read; 0: all.
      smooth: average the scores of a face in a video over its last five frames.
      flip: average with the mirror image.
      temperature: divisor of the logits; None: the one that is kept with the model.
      clip_va: keep valence and arousal within [-1, 1].
      landmarks: whether to give the landmarks.
      batch_size: crops in a batch of the network; all batches have this size.
      workers: threads that find faces; 0: as many as there are cores for this process.
    """

    detect: bool = True
    max_faces: int = 0
    fps: float = 0.0
    smooth: bool = True
    flip: bool = False
    temperature: float | None = None
    clip_va: bool = False
    landmarks: bool = False
    batch_size: int = BATCH_SIZE
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size = {self.batch_size}; at least 1 is needed")
        for name in ("max_faces", "fps", "workers"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"{name} = {value}; it must be 0 or more")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UserError(f"temperature = {self.temperature}; it must be positive")

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Names of the fields that determine the rows, up to the last digits of scores."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name not in _SPEED)


def predictions(
    predictor: Predictor,
    items: Sequence[Item],
    settings: Settings,
    *,
    detector: Detector | None = None,
    known: KnownFaces | None = None,
    keep_images: bool = False,
    position: dict[str, Any] | None = None,
) -> FacePredictions:
    """Return the predictions of items; iterate over them once.

    Args:
      predictor: the model.
      items: what to predict, see `inputs.find`.
      settings: how.
      detector: finds faces; default: the one that comes with the package.
      known: gives all faces instead of a detector, such as `boxes.BoxFile.faces`.
      keep_images: for overlays: frames hold their image, and rows their landmarks, where the model
        was trained for them.
      position: from where to go on.
    """
    if settings.detect and known is None:
        detector = detector or default_detector()
    loaded, workers = predictor.loaded, settings.workers or usable_cores()
    has_faces = settings.detect or known is not None or any(item.boxes for item in items)
    reader = FrameReader(
        predictor.face_preprocessing if has_faces else loaded.preprocessing,
        detector if settings.detect else None,
        known,
        max_faces=settings.max_faces,
        fps=settings.fps,
        keep_images=keep_images,
        max_pixels=predictor.max_pixels,
        workers=workers,
        ahead=(1 if keep_images else 4) * workers,
    )
    with_points = keep_images and "landmarks" in loaded.trained_for()
    scorer = FaceScorer(
        predictor,
        settings.batch_size,
        flip=settings.flip,
        temperature=settings.temperature,
        landmarks=settings.landmarks or with_points or None,
    )
    return FacePredictions(
        items,
        reader,
        scorer,
        table_of(predictor, settings),
        smooth=settings.smooth,
        position=position,
    )


def table_of(predictor: Predictor, settings: Settings) -> FaceTable:
    """Return the table that a model's predictions make.

    Raises:
      UserError: the model predicts nothing that stands in a table.
    """
    loaded = predictor.loaded
    shapes = predictor.score_shapes(settings.landmarks or None)
    classes = shapes["logits"][-1] if "logits" in shapes else 0
    names = loaded.class_names or tuple(map(str, range(classes)))
    points = shapes["landmarks"][-2] if "landmarks" in shapes else 0
    tree = loaded.hierarchy if classes else None
    return FaceTable(names if classes else (), tree, points, settings.clip_va)


def predict_faces(
    predictor: Predictor,
    images: ImageInput | Iterable[ImageInput],
    *,
    detector: Detector | None = None,
    **settings: Any,
) -> "pandas.DataFrame":
    """Find the faces of photos and videos and predict each; return the table of the command.

    Args:
      predictor: from `affect_jax.load`.
      images: one or any number of paths (photos or videos), bytes of image files, Pillow images or
        arrays. An image that is not a file has its place in the list as its name.
      detector: finds faces; default: the one that comes with the package. Several threads call it,
        unless `workers=1`.
      **settings: fields of `Settings`.

    Raises:
      UserError: for a wrong setting or input.
    """
    import pandas

    chosen = Settings(**settings)
    items = [
        inputs_lib.item(os.fsdecode(image)) if is_path(image) else _item_of(index, image)
        for index, image in enumerate(each(images))
    ]
    table = table_of(predictor, chosen)
    run = predictions(predictor, items, chosen, detector=detector)
    rows = [row for predicted in run for row in predicted.rows]
    dtypes = {"id": np.int64, "number": np.float32, "time": np.float64, "text": object}
    frame = pandas.DataFrame(rows, columns=list(table.columns))
    return frame.astype({name: dtypes[table.kind(name)] for name in table.columns})


def _item_of(index: int, image: ImageInput) -> Item:
    return Item(str(index), str(index), content=image)
