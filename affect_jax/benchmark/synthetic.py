"""`benchmark synthetic`: how fast synthetic faces are drawn on one core."""

import argparse
import functools
import time
from collections.abc import Callable

import cv2

from affect_jax.benchmark import suite
from data_pipelines.sources.synthetic import SyntheticFaces, render

SUITE = "synthetic"
_SIZES = (96, 128, 256)
# Repeated decoding of one JPEG distinguishes a slow machine from slow code: see `drawing`.
_YARDSTICK, _YARDSTICK_SIZE, _YARDSTICK_QUALITY = "decoding a 512 px JPEG", 512, 90


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = argparse.ArgumentParser(
        "python -m affect_jax.benchmark synthetic", description=__doc__
    )
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--count", type=int, default=400, help="images per measurement")
    parser.add_argument("--repeats", type=int, default=suite.REPEATS)
    options = parser.parse_args(arguments)
    measure = functools.partial(drawing, options.count, options.repeats)
    return suite.run(measure, options.json)


def drawing(count: int, repeats: int) -> list[dict]:
    """Measure images a second of one thread, by size and camera.

    Each image has its own person and video.

    The processor time of the thread is counted, so the time of other programs is left out. But a
    shared machine is slower at one time than at another. Therefore each figure is also given
    relative to OpenCV's rate of decoding JPEGs of a fixed size, measured in turn.
    """
    cv2.setNumThreads(1)
    cases = {f"{size} px": _measure(count, size) for size in _SIZES}
    cases["128 px, second camera"] = _measure(count, 128, domain="b")
    figures = suite.in_turn({**cases, _YARDSTICK: _measure_yardstick(count)}, repeats)
    found = suite.rates(SUITE, _YARDSTICK, figures)
    for case in cases:
        found += suite.rates(SUITE, case, figures, _YARDSTICK)
    return found


def _measure(count: int, image_size: int, domain: str = "a") -> Callable[[], float]:
    # A person and a video for each picture: nothing that frames share is drawn once for many.
    faces = SyntheticFaces(
        count, frames_per_video=1, videos_per_person=1, image_size=image_size, domain=domain
    )
    faces[0]  # labels of the whole source, drawn once

    return functools.partial(_rate, faces.__getitem__, count)


def _measure_yardstick(count: int) -> Callable[[], float]:
    face = render(0, 0, image_size=_YARDSTICK_SIZE)["image"]
    _, data = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, _YARDSTICK_QUALITY])
    return functools.partial(_rate, lambda _: cv2.imdecode(data, cv2.IMREAD_COLOR), count)


def _rate(make: Callable[[int], object], count: int) -> float:
    start = time.thread_time()
    for i in range(count):
        make(i)
    return count / (time.thread_time() - start)
