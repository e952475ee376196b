"""The peer of the input benchmark: a training transform as PyTorch users write it.

Pillow decodes, and every step makes a new image: resize to 256, rotation up to 15 degrees, colour
jitter with hue, random crop of 224, mirror, to float, normalise, erase. The steps follow
torchvision's transforms on Pillow images; tensors are numpy arrays here, so that the benchmark
needs no PyTorch.
"""

import io
import math

import numpy as np
from PIL import Image, ImageEnhance

MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def transform(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """Return an encoded image as float32 [3, 224, 224], augmented and normalised."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = _resize(image, 256)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.NEAREST)
    image = _colour_jitter(image, rng, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05)
    left = int(rng.integers(image.width - 224 + 1))
    top = int(rng.integers(image.height - 224 + 1))
    image = image.crop((left, top, left + 224, top + 224))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tensor = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32) / 255
    tensor = (tensor - MEAN) / STD
    return _erase(tensor, rng) if rng.random() < 0.5 else tensor


def _resize(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(round(scale * n), side) for n in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _colour_jitter(image, rng, *, brightness, contrast, saturation, hue) -> Image.Image:
    steps = [
        lambda x: ImageEnhance.Brightness(x).enhance(rng.uniform(1 - brightness, 1 + brightness)),
        lambda x: ImageEnhance.Contrast(x).enhance(rng.uniform(1 - contrast, 1 + contrast)),
        lambda x: ImageEnhance.Color(x).enhance(rng.uniform(1 - saturation, 1 + saturation)),
        lambda x: _shift_hue(x, rng.uniform(-hue, hue)),
    ]
    for k in rng.permutation(len(steps)):
        image = steps[k](image)
    return image


def _shift_hue(image: Image.Image, turn: float) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    shifted = np.asarray(h) + np.uint8(int(255 * turn) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), s, v)).convert("RGB")


def _erase(tensor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    _, height, width = tensor.shape
    area = rng.uniform(0.02, 0.2) * height * width
    aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
    h = min(round(math.sqrt(area * aspect)), height - 1)
    w = min(round(math.sqrt(area / aspect)), width - 1)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    erased = tensor.copy()
    erased[:, top : top + h, left : left + w] = 0.0
    return erased
