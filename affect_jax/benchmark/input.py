"""`python -m affect_jax.benchmark input`: how fast images reach the trainer.

One core: our whole path (decode, one warp, one colour matrix, degradations) against a path of
separate steps as PyTorch users write it (`reference.py`), and against JPEG decoding alone.
Delivery: through grain with threads and with worker processes, against a plain loop. Then the
memory over many images, and the refinement plan of 2.6 million frames.
"""

import argparse
import functools
import os
import pathlib
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg

from affect_jax.benchmark import input_peer, suite
from data_pipelines.defaults import DataConfig
from data_pipelines.images import presets
from data_pipelines.loading import sampling
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.options import Options
from data_pipelines.loading.pipeline import Pipeline, make_pipeline
from data_pipelines.schema import empty_labels
from data_pipelines.sources.synthetic import SyntheticFaces

SUITE = "input"
IMAGE_SIZE = 224
BATCH = 64
PRESET = "arbex_heavy"
_HOST_CORES = 16  # of a machine with one GPU
_PLAN_FRAMES, _PLAN_GROUPS = 2_600_000, 600


class Encoded:
    """A source of encoded images in memory, so that no disk is measured."""

    class_names = ("a", "b", "c", "d", "e", "f", "g", "h")
    num_classes = len(class_names)
    hierarchy = ""
    group_names = attribute_names = attribute_values = ()
    has_persons = False
    has = frozenset({"expression"})

    def __init__(self, data: list[bytes]):
        self.data = data
        self.labels = (np.arange(len(data)) % self.num_classes).astype(np.int32)
        self.groups = np.arange(len(data), dtype=np.int32)
        self.tracks = np.full(len(data), -1, np.int32)
        self.persons = [str(i) for i in range(len(data))]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return empty_labels() | {"image": self.data[i], "expression": int(self.labels[i])}

    def describe(self, i: int) -> str:
        return f"picture {i}"

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        return {}

    def record_facts(self) -> dict[str, Any]:
        return {}


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = argparse.ArgumentParser("python -m affect_jax.benchmark input", description=__doc__)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--images", help="folder of JPEGs; default: synthetic faces")
    parser.add_argument("--count", type=int, default=320, help="images per measurement")
    parser.add_argument("--repeats", type=int, default=suite.REPEATS)
    parser.add_argument("--workers", type=int, default=len(_cores()), help="0: no processes")
    parser.add_argument("--memory_images", type=int, default=50_000)
    options = parser.parse_args(arguments)
    return suite.run(functools.partial(measure, options), options.json)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of all parts."""
    data = load(options.images, options.count)
    results = one_core(data, options.repeats)
    results += delivery(data, options.repeats, options.workers)
    if options.memory_images:
        results += memory(data, options.memory_images)
    return results + plan(options.repeats)


def load(folder: str | None, count: int) -> list[bytes]:
    """Return `count` JPEGs, evenly from the folder, or synthetic faces.

    Raises:
      SystemExit: the folder holds no JPEG.
    """
    if folder is None:
        faces = SyntheticFaces(count, image_size=350)
        return [simplejpeg.encode_jpeg(faces[i]["image"], quality=90) for i in range(count)]
    files = sorted(f for f in pathlib.Path(folder).rglob("*") if f.is_file())
    jpegs = [data for f in files if (data := f.read_bytes())[:2] == b"\xff\xd8"]
    if not jpegs:
        raise SystemExit(f"--images: {folder} has no JPEG; name a folder with .jpg files")
    return [jpegs[i] for i in np.linspace(0, len(jpegs) - 1, count).round().astype(int)]


def _seconds(run: Callable[[], Any], cores: set[int]) -> float:
    """Return the seconds of `run` on the given cores, if they can be chosen."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    try:
        if before is not None:
            os.sched_setaffinity(0, cores)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _loader(data: list[bytes], preset: str = PRESET, cache: str = "none") -> Loader:
    source = Encoded(data)
    return Loader(
        source,
        plan=sampling.RefinementPlan(source.labels, source.groups, BATCH),
        params=presets.resolve(preset),
        options=Options(BATCH, DataConfig(image_size=IMAGE_SIZE, cache=cache)),
    )


def one_core(data: list[bytes], repeats: int) -> list[dict[str, Any]]:
    """Measure our path, the reference path and decoding alone, on one core."""
    cv2.setNumThreads(1)
    batches = max(len(data) // BATCH, 1)
    count = batches * BATCH
    rng = np.random.default_rng(0)
    cached = _loader(data, cache="memory")
    for step in range(batches):
        cached(step)  # fills the cache

    def rate(run: Callable[[], Any]) -> Callable[[], float]:
        def measure() -> float:
            # All of it is one thread's work: its processor time leaves out what others do.
            start = time.thread_time()
            run()
            return count / (time.thread_time() - start)

        return measure

    def each(run: Callable[[bytes], Any]) -> Callable[[], float]:
        return rate(lambda: [run(data[k % len(data)]) for k in range(count)].clear())

    def loop(loader: Loader) -> Callable[[], float]:
        return rate(lambda: [loader(step) for step in range(batches)].clear())

    peer, decoding = "reference path", "decoding alone"
    cases = {
        peer: each(lambda jpeg: input_peer.transform(jpeg, rng)),
        decoding: each(
            lambda jpeg: simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=True, fastupsample=True)
        ),
        PRESET: loop(_loader(data)),
        "no augmentation": loop(_loader(data, "none")),
        f"{PRESET}, kept in memory": loop(cached),
    }
    figures = suite.in_turn(cases, repeats)
    results = []
    for case in cases:
        results += suite.rates(SUITE, case, figures, *_peers(case, peer, decoding))
    for line in results:
        line["case"] = f"one core, {IMAGE_SIZE} px: {line['case']}"
    return results


def _peers(case: str, *baselines: str) -> tuple[str, ...]:
    return () if case in baselines else baselines


def delivery(data: list[bytes], repeats: int, workers: int) -> list[dict[str, Any]]:
    """Measure batches through grain: threads and processes, on one core and all."""
    cores = _cores()
    one, n = {cores[-1]}, len(cores)
    settings: dict[str, tuple[set[int], dict[str, int]]] = {
        "1 thread, 1 core": (one, {"num_threads": 1}),
        f"{n} threads, {n} cores": (set(cores), {"num_threads": n}),
    }
    if workers:
        options = {"num_workers": workers, "num_threads": 1}
        settings[f"{workers} workers, {n} cores"] = (set(cores), options)
    batches = max(len(data) // BATCH, 1) * 2
    loader = _loader(data)

    def plain() -> float:
        run = [loader] * batches
        return (
            batches * BATCH / _seconds(lambda: [f(step) for step, f in enumerate(run)].clear(), one)
        )

    def delivered(allowed: set[int], options: dict[str, int]) -> float:
        with _pipeline(data, **options) as pipe:
            # Threads and processes inherit the cores of the thread that starts them, and what is
            # made ahead by the time all of them run is not counted.
            _seconds(lambda: [next(pipe) for _ in range(2 * pipe.buffered)].clear(), allowed)
            seconds = _seconds(lambda: [next(pipe) for _ in range(batches)].clear(), allowed)
        return batches * BATCH / seconds

    cases: dict[str, Callable[[], float]] = {"plain loop, 1 core": plain}
    for name, setting in settings.items():
        cases[name] = functools.partial(delivered, *setting)
    figures = suite.in_turn(cases, repeats)
    results = suite.rates(SUITE, "plain loop, 1 core", figures)
    results += suite.rates(SUITE, "1 thread, 1 core", figures, "plain loop, 1 core")
    for name in list(settings)[1:]:
        results += suite.rates(SUITE, name, figures, "plain loop, 1 core", "1 thread, 1 core")
    results += per_core(figures[f"{n} threads, {n} cores"], n)
    for line in results:
        line["case"] = f"delivered: {line['case']}"
    return results


def per_core(figures: Sequence[float], cores: int) -> list[dict[str, Any]]:
    """Return the rate of one core of several that deliver together, and 16 times as much.

    The second figure is arithmetic: the cores share memory and the interpreter lock, which each
    image holds for about 25 microseconds, so that 16 cores stay far from its 40,000 images/s.
    """
    each = [figure / cores for figure in figures]
    row = functools.partial(suite.row, SUITE, f"{cores} threads, {cores} cores")
    sixteen = [_HOST_CORES * figure for figure in each]
    return [
        row("images_per_second_per_core", each, "images/s"),
        row(f"calculated_for_{_HOST_CORES}_cores", sixteen, "images/s"),
    ]


def _pipeline(data: list[bytes], **options: int) -> Pipeline:
    settings = {"image_size": IMAGE_SIZE, "augment": PRESET} | options
    return make_pipeline(settings, Encoded(data), train=True, batch_size=BATCH)


def resident_bytes() -> int:
    """Return the memory of this process and its children (Linux; 0 elsewhere)."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        place = pathlib.Path(f"/proc/{waiting.pop()}")
        try:
            total += int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (place / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):
            continue  # it has ended meanwhile, or this is not Linux
    return total


def memory(data: list[bytes], images: int) -> list[dict[str, Any]]:
    """Measure the growth of resident memory while `images` are delivered."""
    sizes = []
    batches = -(-images // BATCH)
    with _pipeline(data) as pipe:
        for _ in range(max(batches // 10, 10)):  # buffers fill, allocators settle
            next(pipe)
        for step in range(batches):
            next(pipe)
            if step % max(batches // 100, 1) == 0:
                sizes.append((step * BATCH, resident_bytes() / 1e6))
    seen, resident = np.array(sizes).T
    slope = float(np.polyfit(seen, resident, 1)[0]) * 1000
    case = f"memory over {batches * BATCH} pictures"
    return [
        suite.row(SUITE, case, "slope", [slope], "MB per 1000 pictures"),
        suite.row(SUITE, case, "resident", resident.tolist(), "MB"),
    ]


def plan(repeats: int) -> list[dict[str, Any]]:
    """Measure time and peak memory of one epoch's refinement plan."""
    rng = np.random.default_rng(0)
    labels = rng.choice(8, _PLAN_FRAMES, p=np.array([40, 20, 15, 10, 6, 5, 3, 1]) / 100)
    groups = np.sort(rng.integers(0, _PLAN_GROUPS, _PLAN_FRAMES)).astype(np.int32)
    made = sampling.RefinementPlan(labels.astype(np.int32), groups, BATCH, sampling="refine")
    epochs = iter(range(1, 1 << 30))

    def seconds() -> float:
        start = time.perf_counter()
        made.order(next(epochs))
        return time.perf_counter() - start

    case = "refinement plan, 2.6 M frames"
    figures = [seconds() for _ in range(repeats)]
    tracemalloc.start()
    made.order(next(epochs))
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return [
        suite.row(SUITE, case, "time", figures, "s"),
        suite.row(SUITE, case, "peak_memory", [peak], "MB"),
    ]
