"""Frames of a video file, with their times, as a player shows them.

FFmpeg decodes, through PyAV (extra `video`). OpenCV, which is installed anyway, is not used: it
gives no times for a variable frame rate, and it cannot tell a damaged file from one that ends.
"""

import math
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np

from affect_jax.errors import UserError
from data_pipelines.images.decode import MAX_PIXELS
from data_pipelines.schema import DecodeError

_SLACK = 1e-6  # seconds by which a frame may come before its tick
# A video that ends before the time in its header by both of these was cut.
_LEAST_CUT, _LEAST_CUT_PART = 1.0, 0.05  # seconds; fraction of the duration


class VideoFrame(NamedTuple):
    """A frame, or a place in the video where none could be decoded.

    Attributes:
      number: position in the video, from 0; frames that cannot be decoded and those that are left
        out count too.
      time: seconds, as stamped in the file; NaN if unknown.
      image: uint8 [H, W, 3] RGB, upright and with square pixels; None where there is an error.
      error: why there is no image.
      part: fraction of the file that has been read.
    """

    number: int
    time: float
    image: np.ndarray | None
    error: str = ""
    part: float = 0.0


def pyav() -> ModuleType:
    """Return PyAV.

    Raises:
      UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError('videos need PyAV: pip install -e ".[video]"') from error
    # Its log stays off, as it is at first: FFmpeg's threads would wait there for each other.
    return av


def read_video(
    path: str | os.PathLike,
    *,
    fps: float = 0.0,
    start: int = 0,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[VideoFrame]:
    """Yield the frames of a video; read a damaged one as far as it goes.

    Where the file ends well before the duration in its header, a frame with an error comes last.

    Args:
      path: of the file.
      fps: frames a second of time to keep: of each 1 / fps seconds the first frame; 0: all.
      start: number of the first frame to yield; those before it are decoded, but not converted.
      threads: of the decoder, which share the slices of a frame; 0: as many as there are cores.
      max_pixels: larger frames are not converted.

    Raises:
      DecodeError: it has no video, or no frame of it can be decoded.
      OSError: the file cannot be read.
      UserError: PyAV is not installed.
    """
    av = pyav()
    path = os.fspath(path)
    with open(path, "rb"):  # an error of the file system, with its own words
        pass
    try:
        # An absolute path is a file, with or without colons; playlists may name files only.
        container = av.open(
            os.path.abspath(path),
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"not a video that can be read ({_reason(error)})") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        stream = next((s for s in container.streams.video if not s.disposition & cover), None)
        if stream is None:
            raise DecodeError("the file has no video stream")
        # Threads share the slices of a frame, not frames: an error would come with the packet of a
        # later frame, and at the end of the file PyAV would drop the frames that wait behind it.
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = threads
        chosen = _Ticks(fps)
        any_frame = False
        for decoded in _decoded(av, container, stream):
            any_frame = any_frame or not isinstance(decoded.frame, str)
            # A damaged frame leaves its tick to the next one.
            taken = _is_fault(decoded) or chosen.takes(decoded.time)
            if taken and decoded.number >= start:
                yield _converted(av, decoded, stream, max_pixels)
        if not any_frame:
            raise DecodeError("the video has no frame that can be decoded")


class _Decoded(NamedTuple):
    """A frame of PyAV, or the reason why there is none."""

    number: int
    time: float
    frame: Any
    part: float


class _Ticks:
    """Chooses the first frame of every 1 / fps seconds."""

    def __init__(self, fps: float):
        self._fps, self._last = fps, -math.inf

    def takes(self, time: float) -> bool:
        if not self._fps or math.isnan(time):
            return True
        tick = math.floor((time + _SLACK) * self._fps)
        if tick == self._last:
            return False
        self._last = tick
        return True


def _is_fault(decoded: _Decoded) -> bool:
    return isinstance(decoded.frame, str) or decoded.frame.is_corrupt


def _decoded(av: ModuleType, container: Any, stream: Any) -> Iterator[_Decoded]:
    """Yield what the packets of a stream give."""
    number, packets, part, end = 0, 0, 0.0, 0.0
    time, gap = math.nan, 1 / float(stream.average_rate or 25)
    size = max(container.size or 0, 1)
    for packet, damage in _packets(av, container):
        at = math.nan
        if packet is not None:
            if packet.pts is not None:
                at = float(packet.pts * packet.time_base)
                end = max(end, at + float((packet.duration or 0) * packet.time_base))
            if packet.stream is not stream:  # sound is read for the time of its end only
                continue
            packets += packet.size > 0
            part = max(part, min((packet.pos or 0) / size, 1.0))
        try:
            frames = stream.codec_context.decode(packet)  # without a packet: what it still holds
        except (av.error.FFmpegError, ValueError) as error:
            yield _Decoded(number, at, f"the frame is damaged ({_reason(error)})", part)
            number, frames = number + 1, []
        for frame in frames:
            base = frame.time_base or stream.time_base
            time = _after(time, gap) if frame.pts is None else float(frame.pts * base)
            yield _Decoded(number, time, frame, part)
            number += 1
        if damage:
            yield _Decoded(number, math.nan, damage, part)
            return
    if reason := _cut(av, container, stream, packets, end):
        yield _Decoded(number, math.nan, reason, 1.0)


def _packets(av: ModuleType, container: Any) -> Iterator[tuple[Any, str]]:
    """Yield packets; last, where the rest of the file cannot be read, None and the reason."""
    demuxed = container.demux()
    while True:
        try:
            packet = next(demuxed, None)
        except (av.error.FFmpegError, ValueError) as error:
            yield None, f"the file is damaged here ({_reason(error)})"
            return
        if packet is None:
            return
        yield packet, ""


def _cut(av: ModuleType, container: Any, stream: Any, packets: int, end: float) -> str:
    """Return how much of a video is missing at its end, by its header; "" if it is whole."""
    seconds = (container.duration or 0) / av.time_base
    last = (container.start_time or 0) / av.time_base + seconds
    if last - end <= max(_LEAST_CUT, _LEAST_CUT_PART * seconds):
        return ""  # with fewer frames than the header counts if an edit list leaves some out
    if packets < stream.frames:
        return f"the file is cut: {packets} of {stream.frames} frames are in it"
    return f"the file is cut: it ends at {end:.2f} of {last:.2f} seconds"


def _after(time: float, gap: float) -> float:
    return 0.0 if math.isnan(time) else time + gap


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _converted(av: ModuleType, decoded: _Decoded, stream: Any, max_pixels: int) -> VideoFrame:
    number, time, frame, part = decoded
    if isinstance(frame, str):
        return VideoFrame(number, time, None, frame, part)
    if frame.is_corrupt:
        return VideoFrame(number, time, None, "the frame is damaged", part)
    ratio = float(stream.sample_aspect_ratio or 1) or 1.0
    width, height = max(round(frame.width * ratio), 1), frame.height
    if (most := max(width, frame.width)) * height > max_pixels:
        reason = f"{most}x{height} is more than {max_pixels} pixels"
        return VideoFrame(number, time, None, reason, part)
    try:
        image = frame.to_ndarray(format="rgb24")
        if width != frame.width:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return VideoFrame(number, time, _upright(image, frame), "", part)
    except (av.error.FFmpegError, cv2.error, MemoryError, ValueError) as error:
        reason = f"the frame cannot be converted ({_reason(error)})"
        return VideoFrame(number, time, None, reason, part)


def _upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """Turn and mirror an image as the display matrix of its frame says.

    The matrix takes (x, y) to (a x + c y, b x + d y), in 16.16 fixed point: ISO/IEC 14496-12, 6.2.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):  # a quarter turn
        image, across, down = image.swapaxes(0, 1), c, b
    image = image[:, ::-1] if across < 0 else image
    image = image[::-1] if down < 0 else image
    return np.ascontiguousarray(image)
