"""Files of overlays: a picture a photo, a video a video, each complete or absent."""

import math
import os
import pathlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from affect_jax.errors import UserError
from affect_jax.inference import overlay
from affect_jax.inference.face_predictions import Predicted
from affect_jax.inference.inputs import Item
from affect_jax.inference.video import pyav
from affect_jax.runtime import write_atomically
from data_pipelines import disk

_JPEG = frozenset([".jpg", ".jpeg"])
_JPEG_QUALITY = 95
_TICKS = 90_000  # a second; times of frames are kept to this
_GAP = 1 / 25  # seconds to the next frame where it has no time
_CODECS = (("libx264", {"preset": "veryfast", "crf": "20"}), ("mpeg4", {"qscale": "4"}))


class OverlayFiles:
    """Writes overlays of items into a folder, under the names of the items.

    A photo becomes a JPEG or PNG file, a video an MP4 file with the times of its frames. Frames
    that could not be decoded are left out. A file that could not be read has no overlay.

    Args:
      folder: made if it is missing.
      items: all that may come.

    Raises:
      UserError: `folder` is a file.
    """

    def __init__(self, folder: pathlib.Path, items: Sequence[Item]):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--overlay {folder} is a file; name a folder")
        self._folder, self._items = folder, items
        self._video: _VideoFile | None = None

    def path(self, item: Item) -> pathlib.Path:
        """Return the file of an item's overlay."""
        return self._folder / item.overlay

    def add(self, predicted: Predicted) -> None:
        """Draw a frame; give the overlay of a video its name at its end.

        The frames of a video come in their order, from the first one.

        Raises:
          OSError: a file cannot be written.
        """
        frame = predicted.frame
        item = self._items[frame.place]
        path = self.path(item)
        with disk.explained(path):
            if frame.image is not None:
                picture = overlay.draw(frame.image, predicted.rows, predicted.points)
                path.parent.mkdir(parents=True, exist_ok=True)
                if not item.is_video:
                    write_atomically(path, _encoded(picture, path))
                else:
                    self._video = self._video or _VideoFile(path, picture.shape)
                    self._video.add(picture, frame.time)
            if frame.is_end and self._video is not None:
                self._video.finish()
                self._video = None

    def close(self) -> None:
        """Remove a video that was not finished."""
        if self._video is not None:
            self._video.remove()
            self._video = None


def _encoded(picture: np.ndarray, path: pathlib.Path) -> bytes:
    jpeg = path.suffix.lower() in _JPEG
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if jpeg else []
    done, content = cv2.imencode(".jpg" if jpeg else ".png", picture[..., ::-1], options)
    if not done:
        raise OSError(f"{path}: the picture of {picture.shape[1]}x{picture.shape[0]} is too large")
    return content.tobytes()


class _VideoFile:
    """An MP4 file, named `NAME.partial` until it is finished.

    Args:
      path: of the finished file.
      shape: (height, width, 3) of its first picture; others are scaled to it.
    """

    def __init__(self, path: pathlib.Path, shape: tuple[int, ...]):
        av = pyav()
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        self._size = (shape[1], shape[0])
        self._last, self._av = -1, av
        self._time = math.nan
        self._container = av.open(os.path.abspath(self._partial), "w", format="mp4")
        codec, options = _codec(av)
        self._stream = self._container.add_stream(codec, options=options)
        # Colours are kept for pairs of pixels.
        self._stream.width, self._stream.height = (n + n % 2 for n in self._size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def add(self, picture: np.ndarray, time: float) -> None:
        """Add uint8 [H, W, 3] RGB at a time in seconds; NaN: a little after the last one."""
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        odd = [(0, n % 2) for n in picture.shape[:2]]
        padded = np.pad(picture, [*odd, (0, 0)], mode="edge") if any(map(any, odd)) else picture
        if math.isnan(time):
            time = 0.0 if math.isnan(self._time) else self._time + _GAP
        self._time = time
        frame = self._av.VideoFrame.from_ndarray(padded, format="rgb24")
        # MP4 takes no two frames at one time.
        self._last = max(round(time * _TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._write(frame)

    def finish(self) -> None:
        """Write what is left and give the file its name."""
        self._write(None)
        self._container.close()
        self._partial.replace(self._path)

    def remove(self) -> None:
        """Remove the unfinished file."""
        self._container.close()
        self._partial.unlink(missing_ok=True)

    def _write(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except self._av.error.FFmpegError as error:
            number = getattr(error, "errno", None) or 0
            raise OSError(number, f"{self._path} cannot be written: {error}") from error


def _codec(av: Any) -> tuple[str, dict[str, str]]:
    """Return the first codec that this build of FFmpeg has, and its options."""
    for name, options in _CODECS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # PyAV's UnknownCodecError
            continue
        return name, dict(options)
    raise UserError("overlays of videos need an FFmpeg with libx264 or mpeg4: pip install av")
