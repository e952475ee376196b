"""Images as callers give them: paths, encoded bytes, Pillow images and arrays.

An input that can never be an image (None, a number, floats, a folder) is the caller's mistake and
raises `UserError`. A file or bytes that cannot be decoded raise `DecodeError` or `OSError`, since
they may be one bad file among many.
"""

import io
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

import jax
import numpy as np
from PIL import Image

from affect_jax.errors import UserError
from data_pipelines.images import image_files
from data_pipelines.images.decode import decode, decode_pillow
from data_pipelines.schema import DecodeError

ImageInput = (
    str | os.PathLike | bytes | bytearray | memoryview | Image.Image | np.ndarray | jax.Array
)

_PATHS = (str, os.PathLike)
_BYTES = (bytes, bytearray, memoryview)
_ONE = (*_PATHS, *_BYTES, Image.Image)
_KNOWN = (
    "a path, the bytes of a file, a Pillow image, or a uint8 array [H, W, 3] RGB, [H, W] or "
    "[H, W, 1] grey, [H, W, 4] RGBA"
)
_CHANNELS = (1, 3, 4)
_LARGE = 2**26  # bytes; of larger files the head is looked at first


def each(images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """Yield the images given to `Predictor.predict`; check all of a list first.

    Raises:
      UserError: for an input that holds no images.
    """
    if isinstance(images, _ONE):
        items: Iterable = [images]
    elif isinstance(images, np.ndarray | jax.Array):
        items = _of_array(np.asarray(images))
    elif hasattr(images, "columns"):
        raise UserError(
            f'images is a {type(images).__name__}; give its column of paths, such as table["path"]'
        )
    elif isinstance(images, Mapping) or _is_open_file(images) or not isinstance(images, Iterable):
        raise UserError(
            f"images is {_what(images)}{_read(images)}; give {_KNOWN}, or a list of them"
        )
    else:
        items = images
    if isinstance(items, list | tuple):
        for index, item in enumerate(items):
            check(index, item)
        yield from items
        return
    for index, item in enumerate(items):
        check(index, item)
        yield item


def _of_array(array: np.ndarray) -> Iterable:
    if array.ndim == 1 and array.dtype.kind in "UOT":  # of paths
        return array.tolist()
    return array if array.ndim == 4 else [array]


def _read(item: object) -> str:
    """Return what to do with an open file, whose lines are no images."""
    return ", an open file: give its content, .read()" if _is_open_file(item) else ""


def _is_open_file(item: object) -> bool:
    # Readers of videos have a method `read` too.
    return isinstance(item, io.IOBase) or (hasattr(item, "read") and hasattr(item, "seek"))


def _what(item: object) -> str:
    return "None" if item is None else f"a {type(item).__name__}"


def is_path(item: ImageInput) -> TypeGuard[str | os.PathLike]:
    """Return whether an image is given by the name of its file."""
    return isinstance(item, _PATHS)


def check(index: int, item: object) -> None:
    """Raise UserError, naming the place in the list, unless `item` can be an image."""
    where = f"image {index}"
    if isinstance(item, _PATHS):
        path = os.fsdecode(item)
        if not path:
            raise UserError(f"{where} is an empty path")
        if os.path.isdir(path):
            raise UserError(
                f"{where} is a folder, {path!r}; list the images in it, for example with "
                f"sorted(pathlib.Path({path!r}).glob('*.jpg'))"
            )
    elif isinstance(item, np.ndarray | jax.Array):
        shape = item.shape
        grey, colour = len(shape) == 2, len(shape) == 3 and shape[-1] in _CHANNELS
        if item.dtype != np.uint8 or not (grey or colour) or 0 in shape:
            raise UserError(
                f"{where} must be a uint8 RGB array [H, W, 3], [H, W] or [H, W, 1] in grey, or "
                f"[H, W, 4] RGBA, got {item.dtype} {shape}{_hint(item)}"
            )
    elif isinstance(item, Image.Image):
        if item.mode == "F":
            raise UserError(f"{where} is a Pillow image of floats; convert it to 8 bits")
    elif not isinstance(item, _BYTES):
        value = f" ({item})" if isinstance(item, float) else ""
        kind = f"{_what(item)}{value}{_read(item)}"
        raise UserError(f"{where} is {kind}, not an array or a path; give {_KNOWN}")


def _hint(array: np.ndarray | jax.Array) -> str:
    if 0 in array.shape:
        return "; it has no pixels: leave out empty crops"
    if np.issubdtype(array.dtype, np.floating):
        return "; for values from 0 to 1: (255 * image).round().astype(numpy.uint8)"
    if array.dtype != np.uint8:
        return "; convert it to 8 bits"
    if array.ndim == 3 and array.shape[0] in _CHANNELS:
        return "; channels come last: image.transpose(1, 2, 0)"
    return "; many grey images are [B, H, W, 1]" if array.ndim == 3 else ""


def _content(path: pathlib.Path) -> bytes:
    """Return the bytes of an image file."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise DecodeError("not a regular file: a pipe, socket or device")
    with open(path, "rb") as file:
        if status.st_size > _LARGE:
            if not image_files.image_format(file.read(image_files.HEAD_BYTES)):
                raise DecodeError(f"not an image in a known format ({status.st_size} bytes)")
            file.seek(0)
        return file.read()


def read(item: ImageInput, max_pixels: int) -> np.ndarray:
    """Decode an input that passed `check`; refuse larger files and images.

    Returns:
      uint8 [H, W, 3] RGB, or [H, W] grey.

    Raises:
      DecodeError: it is damaged or too large.
      OSError: the file cannot be read.
    """
    if isinstance(item, _PATHS):
        item = _content(pathlib.Path(os.fsdecode(item)))
    if isinstance(item, _BYTES):
        return decode(bytes(item), max_pixels=max_pixels, grey=True)
    if isinstance(item, Image.Image):
        return decode_pillow(item, max_pixels=max_pixels)
    array = np.asarray(item)
    if array.ndim == 3 and array.shape[-1] == 1:
        return array[..., 0]
    if array.ndim == 3 and array.shape[-1] == 4:  # transparency becomes black, as in files
        return decode_pillow(Image.fromarray(array), max_pixels=array.size)
    return array
