"""Frames of photos and videos with the crops of their faces, read ahead by worker threads.

One thread reads: it opens photos and decodes videos in order. The others find and crop the faces of
a photo or frame each. Results come in the order of the inputs. The number of frames in memory and
their bytes are bounded, so that long videos need no more of it than short ones.
"""

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from affect_jax.errors import UserError
from affect_jax.inference import detection, image_inputs, tracks
from affect_jax.inference.faces import Detector, Faces, faces_of_boxes
from affect_jax.inference.inputs import Item
from affect_jax.inference.video import VideoFrame, read_video
from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.images.decode import MAX_PIXELS
from data_pipelines.schema import DecodeError

_POLL = 0.1  # seconds between looks at whether to stop
_BYTES = 2**29  # of decoded frames that may wait
# Errors that concern one photo or frame; a ValueError: a path that no file can have.
_FAULTS = (OSError, DecodeError, ValueError, MemoryError, cv2.error)

# The faces of a photo (None), or of a frame of a video.
KnownFaces = Callable[[str, int | None], Faces]


class Crop(NamedTuple):
    """What the network sees of a face.

    Attributes:
      box: float [4], left, top, right, bottom in pixels of the image.
      score: of the detector; NaN where none was asked.
      pixels: uint8 [S, S, 3]; None where there is an error.
      to_image: maps fractions [..., 2] of the crop to pixels of the image.
      look: of the box, see `tracks.look`; empty for photos.
      error: why there is no crop: the box lies outside the image.
    """

    box: np.ndarray
    score: float
    pixels: np.ndarray | None
    to_image: Callable[[np.ndarray], np.ndarray] | None
    look: np.ndarray
    error: str = ""


class Frame(NamedTuple):
    """A photo or a frame of a video, or the end of an item.

    Attributes:
      place: of the item in the list.
      number: of the frame, 0 for a photo, -1 for what concerns the whole file.
      time: seconds; NaN for a photo.
      crops: its faces, the highest score first.
      error: why it cannot be read.
      part: fraction of the file that has been read.
      image: uint8 [H, W, 3], where it is to be kept.
      is_end: nothing of the item follows, and this is not a frame.
    """

    place: int
    number: int
    time: float
    crops: tuple[Crop, ...] = ()
    error: str = ""
    part: float = 0.0
    image: np.ndarray | None = None
    is_end: bool = False


@dataclasses.dataclass(frozen=True)
class FrameReader:
    """How items become frames with crops.

    Attributes:
      preprocessing: of the model.
      detector: finds faces, in several threads at once; None: an image is a crop already.
      known: gives all faces instead of a detector; None: there is no such function.
      max_faces: faces of a frame, those of the highest scores; 0: all.
      fps: frames a second of a video; 0: all.
      keep_images: whether frames hold their image.
      max_pixels: larger images are not decoded.
      workers: threads that find faces.
      ahead: frames that may wait, if they are not large.
    """

    preprocessing: Preprocessing
    detector: Detector | None
    known: KnownFaces | None = None
    max_faces: int = 0
    fps: float = 0.0
    keep_images: bool = False
    max_pixels: int = MAX_PIXELS
    workers: int = 2
    ahead: int = 32

    def read(
        self, items: Sequence[Item], place: int = 0, number: int = 0
    ) -> Generator[Frame, None, None]:
        """Yield the frames of items, and after each item its end.

        Args:
          items: all of them.
          place: of the first item to read.
          number: of the first frame of that item, if it is a video.
        """
        waiting: queue.Queue[Any] = queue.Queue(self.ahead)
        stop = threading.Event()
        budget = _Budget(stop)
        pool = concurrent.futures.ThreadPoolExecutor(self.workers, "faces")

        def put(entry: Any) -> None:
            while not stop.is_set():
                try:
                    return waiting.put(entry, timeout=_POLL)
                except queue.Full:
                    continue
            raise _StoppedError

        def feed() -> None:
            try:
                for at in range(place, len(items)):
                    for task, size in self._tasks(items[at], at, number if at == place else 0):
                        budget.take(size)
                        put((pool.submit(task), size))
                    put(Frame(at, -1, np.nan, part=1.0, is_end=True))
                put(None)
            except _StoppedError:
                pass
            except BaseException as error:  # for the thread that reads the results
                with contextlib.suppress(_StoppedError):
                    put(error)

        thread = threading.Thread(target=feed, name="reader", daemon=True)
        thread.start()
        try:
            while (entry := waiting.get()) is not None:
                if isinstance(entry, BaseException):
                    raise entry
                if isinstance(entry, Frame):
                    yield entry
                    continue
                future, size = entry
                yield future.result()
                budget.give_back(size)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            thread.join()

    def _tasks(
        self, item: Item, place: int, number: int
    ) -> Iterator[tuple[Callable[[], Frame], int]]:
        """Yield what is to do for each frame, and the bytes that are decoded already."""
        if item.fault or not item.is_video:
            yield lambda: self._photo(item, place), 0
            return
        try:
            for frame in read_video(
                item.path, fps=self.fps, start=number, max_pixels=self.max_pixels
            ):
                size = 0 if frame.image is None else frame.image.nbytes
                yield lambda frame=frame: self._frame(item, place, frame), size  # type: ignore[misc]
        except UserError:
            raise
        except _FAULTS as error:
            failed = Frame(place, -1, np.nan, error=_reason(error))
            yield lambda: failed, 0

    def _photo(self, item: Item, place: int) -> Frame:
        frame = Frame(place, 0, np.nan, part=1.0)
        failed = frame._replace(number=-1)
        if item.fault:
            return failed._replace(error=item.fault)
        given = item.path if item.content is None else item.content
        try:
            image = image_inputs.read(given, self.max_pixels)
            return self._with_crops(item, frame, image)
        except UserError:
            raise
        except _FAULTS as error:
            return failed._replace(error=_reason(error))

    def _frame(self, item: Item, place: int, source: VideoFrame) -> Frame:
        frame = Frame(place, source.number, source.time, error=source.error, part=source.part)
        if source.image is None:
            return frame
        try:
            return self._with_crops(item, frame, source.image)
        except UserError:
            raise
        except _FAULTS as error:
            return frame._replace(error=_reason(error))

    def _with_crops(self, item: Item, frame: Frame, image: np.ndarray) -> Frame:
        rgb = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        faces = self._faces(item, frame.number, rgb)
        if faces is None:
            crops = [self._whole(image, item.is_video)]
        else:
            faces = faces.best(self.max_faces) if self.max_faces else faces
            crops = [self._crop(rgb, faces, i, item.is_video) for i in range(len(faces.boxes))]
        return frame._replace(crops=tuple(crops), image=rgb if self.keep_images else None)

    def _faces(self, item: Item, number: int, image: np.ndarray) -> Faces | None:
        """Return the faces of an image; None: the image is a crop."""
        if item.boxes is not None:
            unknown = np.full(len(item.boxes), np.nan, np.float32)
            return faces_of_boxes(np.array(item.boxes), unknown)
        if self.known is not None:
            return self.known(item.path, number if item.is_video else None)
        return None if self.detector is None else self.detector(image)

    def _whole(self, image: np.ndarray, is_video: bool) -> Crop:
        framing, (height, width) = self.preprocessing.framing, image.shape[:2]
        frame = framing.frame(height, width)
        pixels = framing.pixels(image, frame)
        box = np.array([0, 0, width, height], np.float32)
        look = tracks.look(image, box) if is_video else tracks.NO_LOOK
        return Crop(box, np.nan, pixels, lambda parts: framing.to_image(parts, frame), look)

    def _crop(self, image: np.ndarray, faces: Faces, i: int, is_video: bool) -> Crop:
        box, score = faces.boxes[i], float(faces.scores[i])
        look = tracks.look(image, box) if is_video else tracks.NO_LOOK
        try:
            pixels, to_image = detection.crop(image, faces, i, self.preprocessing)
        except DecodeError as error:
            return Crop(box, score, None, None, look, str(error))
        return Crop(box, score, pixels, to_image, look)


def _reason(error: Exception) -> str:
    """Return the text of an error, for the table."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Budget:
    """Bounds the bytes of the video frames that wait; one frame may always.

    Args:
      stop: set when the results are not wanted any more.
    """

    def __init__(self, stop: threading.Event):
        self._stop, self._used = stop, 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until `size` bytes are free."""
        with self._changed:
            while self._used and self._used + size > _BYTES:
                if self._stop.is_set():
                    raise _StoppedError
                self._changed.wait(_POLL)
            self._used += size

    def give_back(self, size: int) -> None:
        """Free `size` bytes."""
        with self._changed:
            self._used -= size
            self._changed.notify()


class _StoppedError(Exception):
    """The results are not wanted any more."""
