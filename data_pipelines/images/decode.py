"""Decode images to uint8 RGB or grey: fast for JPEG and PNG, safe for others.

JPEG is decoded with the accurate cosine transform and smooth chroma, to the same pixels as by
Pillow. Coarser settings would save at most 4 %.

Orientation tags are applied, transparency is laid on black, 16-bit samples are cut to 8 and
CMYK is converted. Sizes are read from the header, so that a decompression bomb is refused before it
takes memory. An image that cannot be decoded completely raises `DecodeError` with a short reason.
"""

import contextlib
import io
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from data_pipelines.images import image_files
from data_pipelines.schema import DecodeError

MAX_PIXELS = 50_000_000
_MAX_SIDE = 32767  # OpenCV warps nothing larger
# Below it libjpeg's other scales (3/8, say) may give as many pixels as the one asked for.
_LEAST_SIDE = 16
_APP1, _SCAN = b"\xe1", b"\xda"  # JPEG markers
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_ORIENTATION = 0x0112
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i"}  # types of Exif; some programs write a long number
_PNG_END = b"IEND\xaeB`\x82"
# What Pillow finds an orientation by: Exif, ImageMagick's Exif as text, XMP.
_PNG_ORIENTED = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_PNG_COLOUR = {0: cv2.IMREAD_GRAYSCALE, 2: cv2.IMREAD_COLOR_RGB}
# 16-bit grey modes of Pillow; older releases read 16-bit PNG files as `I`.
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, grey: bool = False) -> np.ndarray:
    """Decode one image.

    Args:
      data: the bytes of a JPEG, PNG or any other file that Pillow reads.
      max_pixels: larger images (width x height in the header) are refused.
      grey: an image stored in grey comes back as [H, W] instead of [H, W, 3].

    Returns:
      uint8 [H, W, 3] RGB, or [H, W].

    Raises:
      DecodeError: empty, truncated, damaged, too large or in an unknown format.
    """
    return decode_shrunk(data, lambda height, width: 1, max_pixels=max_pixels, grey=grey).image


class Shrunk(NamedTuple):
    """An image at 1/k of its size.

    Attributes:
      image: uint8 [ceil(height / k), ceil(width / k), 3], or without the last axis. Pixel x of the
        image lies at (x + 0.5) / k - 0.5 in it, whether or not k divides the sides.
      k: 1, 2, 4 or 8.
      height, width: of the whole image, its orientation tag applied.
    """

    image: np.ndarray
    k: int
    height: int
    width: int


def decode_shrunk(
    data: bytes,
    shrink: Callable[[int, int], int],
    *,
    max_pixels: int = MAX_PIXELS,
    grey: bool = False,
) -> Shrunk:
    """Decode one image at 1/k of its size, averaging the pixels that fall together.

    For training: an image much larger than the output would alias under bilinear sampling, and
    takes longer to decode. `shrink(height, width)` returns k (1, 2, 4 or 8) when the size is known.
    If an orientation tag turns the image, height and width may be swapped.

    Raises:
      DecodeError: as for `decode`.
    """
    if not data:
        raise DecodeError("zero bytes")
    shrunk = None
    if data[:2] == b"\xff\xd8":
        image, shrunk = _decode_jpeg(data, max_pixels, grey, shrink)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        image = _decode_png(data, max_pixels)
    else:
        image = _decode_other(data, max_pixels)
    if shrunk is None:
        height, width = image.shape[:2]
        k = shrink(height, width)
        shrunk = Shrunk(shrink_by(image, k), k, height, width)
    if shrunk.image.ndim == 2 and not grey:
        shrunk = shrunk._replace(image=cv2.cvtColor(shrunk.image, cv2.COLOR_GRAY2RGB))
    return shrunk


def shrink_by(image: np.ndarray, k: int) -> np.ndarray:
    """Return means of k x k pixels; the last row and column repeat to fill."""
    if k == 1:
        return image
    height, width = image.shape[:2]
    bottom, right = -height % k, -width % k
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // k, image.shape[0] // k)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"empty image of {width}x{height}")
    if max(width, height) > _MAX_SIDE:
        raise DecodeError(f"{width}x{height} has a side of more than {_MAX_SIDE} pixels")
    if width * height > max_pixels:
        raise DecodeError(f"{width}x{height} is more than {max_pixels} pixels (max_pixels)")


def _decode_jpeg(
    data: bytes, max_pixels: int, grey: bool, shrink: Callable[[int, int], int]
) -> tuple[np.ndarray, Shrunk | None]:
    """Return the decoded image, and the `Shrunk` one if the decoder shrank it."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return _decode_other(data, max_pixels), None  # unusual subsampling, or a damaged header
    _check_size(width, height, max_pixels)
    if space in ("CMYK", "YCCK"):
        return _decode_other(data, max_pixels), None
    wanted, orientation = shrink(height, width), _exif_orientation(data)
    uneven = height % wanted or width % wanted
    # Shrinking begins at the corner stored first, which must be the corner shown first.
    k = 1 if min(height, width) < _LEAST_SIDE or (orientation > 1 and uneven) else wanted
    options = {"colorspace": "GRAY" if grey and space == "Gray" else "RGB"}
    if k > 1:
        # Halving, quartering and so on in the cosine domain is cheaper than decoding whole.
        options |= {"min_height": -(-height // k), "min_width": -(-width // k)}
    try:
        image = simplejpeg.decode_jpeg(data, **options)
    except ValueError as e:
        # Surplus bytes between segments are harmless; a missing end is not.
        if "extraneous bytes" not in str(e):
            raise DecodeError(f"truncated or damaged JPEG ({e})") from e
        image = simplejpeg.decode_jpeg(data, strict=False, **options)
    image = image[..., 0] if options["colorspace"] == "GRAY" else image
    image = _oriented(image, orientation)
    if k != wanted:
        return image, None
    height, width = (width, height) if orientation >= 5 else (height, width)
    return image, Shrunk(image, k, height, width)


def _decode_png(data: bytes, max_pixels: int) -> np.ndarray:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise DecodeError("truncated PNG")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    _check_size(width, height, max_pixels)
    if _PNG_END not in data:  # harmless surplus bytes may follow it
        raise DecodeError("truncated PNG")
    plain = depth == 8 and colour in _PNG_COLOUR
    # tRNS may follow a long colour profile, but comes before the pixels.
    if plain and b"tRNS" not in data[: data.find(b"IDAT")]:
        if any(mark in data for mark in _PNG_ORIENTED):
            with contextlib.suppress(DecodeError):  # damaged tags are passed over
                return _decode_other(data, max_pixels)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _PNG_COLOUR[colour])
        if image is not None:
            return image
    return _decode_other(data, max_pixels)


def decode_pillow(image: Image.Image, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image that Pillow has opened to what `decode` gives for its file.

    Returns:
      uint8 [H, W, 3] RGB, or [H, W] for an image stored in grey.

    Raises:
      DecodeError: as for `decode`.
    """
    return _of_pillow(lambda: image, max_pixels)


def _decode_other(data: bytes, max_pixels: int) -> np.ndarray:
    if reason := image_files.fault("", data[:64]):
        raise DecodeError(reason)
    return _of_pillow(lambda: Image.open(io.BytesIO(data)), max_pixels)


def _of_pillow(open_image: Callable[[], Image.Image], max_pixels: int) -> np.ndarray:
    try:
        image = open_image()
        _check_size(*image.size, max_pixels)
        image.load()
        image = ImageOps.exif_transpose(image)
        return _to_array(image)
    except DecodeError:
        raise
    except Image.DecompressionBombError as e:
        raise DecodeError(str(e)) from e
    except Image.UnidentifiedImageError as e:
        raise DecodeError("not an image in a known format") from e
    # Pillow's readers raise a dozen types on damaged input, `struct.error` and `KeyError` included.
    except Exception as e:
        raise DecodeError(f"cannot be decoded ({type(e).__name__}: {e})") from e


def _to_array(image: Image.Image) -> np.ndarray:
    if image.mode in _DEEP_MODES:
        samples = np.asarray(image).astype(np.int64)
        shift = 8 if samples.max(initial=0) > 255 else 0
        return np.clip(samples >> shift, 0, 255).astype(np.uint8)
    if image.mode == "F":
        raise DecodeError("floating-point samples have no stated range; convert to 8 or 16 bits")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.asarray(image.convert("RGB"))


def _exif_orientation(data: bytes) -> int:
    """Return the orientation (1 to 8) of a JPEG by Exif, else by XMP; 1 if missing or damaged."""
    start, xmp = 2, 1
    while data[start : start + 1] == b"\xff" and (marker := data[start + 1 : start + 2]) != _SCAN:
        if marker == b"\xff":  # fill byte
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _APP1 and data[start + 4 : start + 10] == b"Exif\x00\x00":
            if (found := _orientation_of_exif(data[start + 10 : end])) is not None:
                return found if 1 <= found <= 8 else 1
        elif marker == _APP1 and (match := _XMP_ORIENTATION.search(data, start, end)):
            xmp = int(match[1])
        start = end
    return xmp


def _orientation_of_exif(tiff: bytes) -> int | None:
    """Return the orientation tag of Exif data; None without one."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION and kind in _INTEGERS:
                return struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)[0]
    except struct.error:
        pass
    return None


def _oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    # Tags 2, 3, 4 mirror x, both, y; 5 to 8 do the same (none, x, both, y) after a transposition.
    mirror_x = orientation in (2, 3, 6, 7)
    mirror_y = orientation in (3, 4, 7, 8)
    image = image[:, ::-1] if mirror_x else image
    image = image[::-1] if mirror_y else image
    return np.ascontiguousarray(image)
