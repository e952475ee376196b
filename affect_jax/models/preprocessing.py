"""How an image becomes a network's input, as recorded with a model."""

import dataclasses
import math
import numbers
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from affect_jax.errors import UserError
from data_pipelines.images import presets
from data_pipelines.images.framing import CROPS, Frame, Framing

SCALE = 255.0
# Side of what a model sees of a face over the mean side of its box, where nothing is known. Crops
# aligned as in ArcFace (Deng et al., 2019) have 1.29: median of 126 photos in the wild.
ASSUMED_FACE_SCALE = 1.3


def normalise(
    images: Any, mean: Any, std: Any, scale: float = SCALE, dtype: Any = jnp.float32
) -> Any:
    """Return network input from images: (images / scale - mean) / std.

    Args:
      images: [..., H, W, 3] in [0, scale], uint8, or float where images are mixed. Features [B, D]
        are the network's own input, and are returned unchanged.
      mean, std: by channel, of images / scale.
      scale: see above.
      dtype: of the result.
    """
    if jnp.ndim(images) == 2:
        return jnp.asarray(images, dtype)
    scaled = jnp.asarray(images, dtype) / jnp.asarray(scale, dtype)
    return (scaled - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a uint8 RGB image becomes the network's input.

    `pixels` frames and resizes it, as evaluation does; `normalise` computes
    (x / scale - mean) / std per channel.

    Attributes:
      image_size: side of the input, in pixels.
      mean, std, scale: of the input; mean and std per channel, RGB.
      fit: what happens to an image that is not square: "stretch" scales its sides apart, "cover"
        takes the largest square in the middle, "contain" the whole on black.
      margin: only the middle 1 / (1 + margin) of the sides of the result is seen.
      crop: what training cut out: "landmarks", "box" (a square around them), "auto" (landmarks if
        there are any, else the box), "face" (landmarks, else the box without its forehead) or
        "whole"; images without them are taken whole.
      crop_scale: side of that square over the mean side of the box around the landmarks, or of the
        box; 0: the model expects another crop, or the crop is not known.
      face_scale: for a model that was trained on whole images of one face each: side of what it saw
        over the mean side of the face's box (see `inference.faces.Faces`), as measured on its
        training images; 0: not measured, or not needed.
      face_shift: the way from the centre of that box to the centre of what it saw, over the box's
        mean side, (x, y).
    """

    image_size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = SCALE
    fit: str = "stretch"
    crop_scale: float = 0.0
    margin: float = 0.0
    crop: str = "auto"
    face_scale: float = 0.0
    face_shift: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        if self.fit not in presets.FITS:
            raise UserError(f"preprocessing.fit is {self.fit!r}; use one of {presets.FITS}")
        if self.crop not in CROPS:
            raise UserError(f"preprocessing.crop is {self.crop!r}; use one of {CROPS}")
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        object.__setattr__(self, "face_shift", tuple(self.face_shift))
        floats = (*self.mean, *self.std, self.scale, self.crop_scale, self.margin)
        finite = all(map(math.isfinite, floats))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise UserError(
                "preprocessing needs 3 means and 3 positive deviations, all numbers finite, got "
                f"{self.mean}, {self.std}, {self.scale}, {self.crop_scale}, {self.margin}"
            )
        faces = (self.face_scale, *self.face_shift)
        if len(faces) != 3 or not all(map(math.isfinite, faces)) or self.face_scale < 0:
            raise UserError(
                "preprocessing needs a face_scale of 0 or more and a face_shift of 2 numbers, got "
                f"{self.face_scale}, {self.face_shift}"
            )
        whole = isinstance(self.image_size, numbers.Integral) and self.image_size >= 1
        if not whole or not self.scale > 0 or min(self.crop_scale, self.margin) < 0:
            raise UserError(
                "preprocessing needs a positive image_size (a whole number) and scale, and no "
                f"negative crop_scale or margin, got {self.image_size!r}, {self.scale}, "
                f"{self.crop_scale}, {self.margin}"
            )

    @classmethod
    def of_config(cls, config: ml_collections.ConfigDict) -> "Preprocessing":
        """Return the preprocessing of a run's evaluation."""
        section, data = config.model, config.data
        preset = presets.resolve(data.augment, data.augment_overrides)
        whole = data.crop == "whole"
        return cls(
            image_size=data.image_size,
            mean=tuple(section.mean),
            std=tuple(section.std),
            fit=preset.fit,
            margin=preset.margin,
            crop=data.crop,
            crop_scale=0.0 if whole else float(data.crop_scale or preset.box_scale),
        )

    @property
    def framing(self) -> Framing:
        """The way from a decoded image to pixels."""
        return Framing(self.image_size, self.fit, self.margin, self.crop, self.crop_scale)

    @property
    def crops_faces(self) -> bool:
        """Whether it is known how a face is cut out of an image that shows more."""
        return bool(self.face_scale or (self.crop != "whole" and self.crop_scale))

    @property
    def face_crop(self) -> str:
        """The crop of faces that were not in training, one of `CROPS`.

        A network that saw crops around landmarks expects of a box what landmarks would span.
        """
        return "face" if self.crop in ("auto", "landmarks") else self.crop

    def for_faces(self) -> "Preprocessing":
        """Return the preprocessing with a crop of faces, assumed if none is known.

        It is a square of `ASSUMED_FACE_SCALE` times the mean side of the face's box.
        """
        if self.crops_faces:
            return self
        return dataclasses.replace(self, face_scale=ASSUMED_FACE_SCALE * (1 + self.margin))

    def face_frame(self, box: np.ndarray, height: int, width: int) -> Frame:
        """Return the part of an image that training would have shown of a face.

        Args:
          box: float [4], the face's box, forehead included; see `inference.faces.Faces`.
          height, width: of the image. The result is all of it unless `crops_faces`.
        """
        x0, y0, x1, y1 = map(float, box)
        if self.face_scale:
            size, (right, down) = (x1 - x0 + y1 - y0) / 2, self.face_shift
            side = self.face_scale * size
            return Frame((x0 + x1) / 2 + right * size, (y0 + y1) / 2 + down * size, side, side)
        framing = dataclasses.replace(self.framing, crop=self.face_crop)
        return framing.frame(height, width, box=np.array([x0, y0, x1, y1]))

    def pixels(
        self,
        image: np.ndarray,
        landmarks: np.ndarray | None = None,
        box: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return what the network sees of an image, uint8 [image_size, image_size, 3].

        Args:
          image: uint8 [H, W, 3] RGB, or [H, W] grey.
          landmarks: float [68, 2] pixels of the image, or None.
          box: float [4], x0, y0, x1, y1, or None.

        Raises:
          DecodeError: landmarks or box lie outside the image.
        """
        height, width = image.shape[:2]
        frame = self.framing.frame(height, width, landmarks, box)
        return self.framing.pixels(image, frame)

    def normalise(self, images: Any, dtype: Any = jnp.float32) -> Any:
        """Return network input from uint8 images [..., 3] of any size."""
        return normalise(images, self.mean, self.std, self.scale, dtype)
