"""What augmentation may do to an image, and the presets of the published recipes."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from data_pipelines.schema import DataError

FITS = ("cover", "contain", "stretch")


@dataclasses.dataclass(frozen=True)
class Params:
    """What may happen to an image. All zeros: it is only framed and resized.

    Framing, in training and evaluation alike:
      box_scale: side of the square crop / mean side of the face box (given, or around landmarks).
      fit: without a box, `cover` (the largest centred square), `contain` (the whole image on
        black) or `stretch` (sides scaled apart).
      margin: the crop is resized to (1 + margin) x the output and a window of the output's size is
        cut from it: anywhere with `random_crop`, else (and in evaluation) in the middle.
    Geometry, drawn uniformly:
      rotation: up to this many degrees either way.
      scale: factor in [1 - scale, 1 + scale].
      translation: up to this fraction of the output's side, each way in x and y.
      flip: probability of a mirror.
    Colour, drawn uniformly:
      brightness, contrast, saturation: factors in [1 - x, 1 + x]; contrast turns about mid-grey.
      hue: rotation about the grey axis, up to this fraction of a full turn either way.
      grey: probability of losing all colour.
    Degradations, each with a probability:
      blur, blur_sigma: Gaussian of up to so many pixels.
      noise, noise_std: Gaussian of up to so many grey levels.
      jpeg, jpeg_quality: artefacts of a quality from so much to 95.
      erase, erase_area: one rectangle of 2 % up to this fraction of the image, of one random grey.
    """

    box_scale: float = 1.5
    fit: str = "cover"
    margin: float = 0.0
    random_crop: bool = True
    rotation: float = 0.0
    scale: float = 0.0
    translation: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: float = 2.0
    noise: float = 0.0
    noise_std: float = 12.0
    jpeg: float = 0.0
    jpeg_quality: float = 30.0
    erase: float = 0.0
    erase_area: float = 0.2

    def framing_only(self) -> "Params":
        """Return the same crop without any randomness, for evaluation."""
        return Params(self.box_scale, self.fit, self.margin, random_crop=False)

    @property
    def fixed(self) -> bool:
        """Return whether nothing is drawn: every image comes out as in evaluation."""
        drawn = (
            *("rotation", "scale", "translation", "flip", "brightness", "contrast"),
            *("saturation", "hue", "grey", "blur", "noise", "jpeg", "erase"),
        )
        moved = self.random_crop and self.margin
        return not moved and not any(getattr(self, name) for name in drawn)


PRESETS: dict[str, Params] = {
    "none": Params(),
    # EmoFAN's crop of a landmark box: 200/220 of width plus height, that is 1.82 x the mean side.
    "emofan": Params(box_scale=20 / 11, rotation=18, scale=0.15, translation=0.05, flip=0.5),
    # ARBEx's list: resize, scale, rotation, pad, flip, crop of 224 from 256, colour, noise. Grey
    # and erasing are ours and not in it; configs that follow the paper switch erasing off.
    "arbex_heavy": Params(
        margin=32 / 224,
        rotation=15,
        scale=0.15,
        translation=0.04,
        flip=0.5,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.05,
        grey=0.1,
        noise=0.2,
        erase=0.5,
    ),
    "poster": Params(flip=0.5, erase=0.5, erase_area=0.1),
    "vit": Params(
        margin=32 / 224,
        rotation=10,
        scale=0.1,
        flip=0.5,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
    ),
}


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> Params:
    """Return the parameters of a preset with overrides; None overrides nothing.

    Raises:
      DataError: the preset, a parameter or its value is not known.
    """
    if preset not in PRESETS:
        raise DataError(f"data.augment is {preset!r}; known: {', '.join(PRESETS)}")
    changes = {k: v for k, v in dict(overrides or {}).items() if v is not None}
    names = [f.name for f in dataclasses.fields(Params)]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
            raise DataError(f"data.augment_overrides has no {name!r}{hint}")
    params = dataclasses.replace(PRESETS[preset], **changes)
    if params.fit not in FITS:
        raise DataError(f"augmentation: fit is {params.fit!r}; known: {', '.join(FITS)}")
    if not 0 <= params.scale < 1 or params.box_scale <= 0 or params.margin < 0:
        raise DataError("augmentation: scale in [0, 1), box_scale > 0 and margin >= 0 are needed")
    return params
