"""What a device does in a step: kernels by kind, and the share of time without any.

The figures are read from the perfetto trace of `jax.profiler`, where each stream of a GPU is a
thread. A CPU runs no kernels; there is nothing to read then.
"""

import collections
import glob
import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

# Kind of a kernel by its name, in lower case; the first that fits.
_KINDS = (
    ("collective", r"nccl|all.?reduce|all.?gather|reduce.?scatter|all.?to.?all"),
    ("attention", r"flash|fmha|attention|sdpa|mha_"),
    ("copy", r"memcpy|memset|copy|transpose|nchwtonhwc|nhwctonchw|convert_layout"),
    ("convolution", r"conv(?!ert)|fprop|dgrad|wgrad|winograd|implicit"),
    ("matrix product", r"gemm|gemv|dot|matmul|nvjet|cublas|cutlass"),
    ("reduction", r"reduc|softmax|norm|select_and_scatter|scatter|sort|argmax"),
    ("element-wise", r"fusion|loop|elementwise|broadcast|add|multiply|subtract|select|convert|pad|"
                     r"slice|concatenate|iota|rng|random|max|min|exp|tanh|compare|fill|wrapped"),
)  # fmt: skip
OTHER = "other"


def kind_of(name: str) -> str:
    """Return the kind of a kernel: a key of the summary's `kinds`."""
    lower = name.lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, lower)), OTHER)


def profile(run: Callable[[], Any], steps: int) -> dict[str, Any] | None:
    """Return what `summary` finds in a trace of `run`, which takes `steps` steps."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            run()
        return summary(read(folder), steps)


def read(folder: str | pathlib.Path) -> list[dict[str, Any]]:
    """Return the events of the perfetto trace below a folder; none if there is no trace."""
    found = glob.glob(f"{folder}/**/perfetto_trace.json.gz", recursive=True)
    if not found:
        return []
    with gzip.open(found[0]) as file:
        content = json.load(file)
    return content["traceEvents"] if isinstance(content, dict) else content


def summary(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any] | None:
    """Summarise the kernels of one device.

    Args:
      events: of a trace; times are microseconds.
      steps: that the trace holds.

    Returns:
      None if no device recorded kernels. Otherwise `step_ms` (from the first kernel's beginning to
      the last one's end), `kernel_ms` (sum over kernels), `busy_ms` (with any kernel),
      `idle_share` (of `step_ms`, without any), `kernels` (their number), all per step; `kinds`:
      kind -> {`ms`, `kernels`} per step, longest first; `top`: the 20 longest names with ms and
      number per step.
    """
    events = list(events)
    streams = _streams(events)
    kernels = [e for e in events if e.get("ph") == "X" and (e["pid"], e["tid"]) in streams]
    if not kernels:
        return None
    # Several devices do the same: the first one stands for all.
    device = min(e["pid"] for e in kernels)
    kernels = [e for e in kernels if e["pid"] == device]
    spans = sorted((float(e["ts"]), float(e["ts"]) + float(e.get("dur", 0))) for e in kernels)
    length = max(end for _, end in spans) - spans[0][0]
    time_of: dict[str, float] = collections.defaultdict(float)
    count_of: collections.Counter[str] = collections.Counter()
    for e in kernels:
        time_of[e["name"]] += float(e.get("dur", 0))
        count_of[e["name"]] += 1
    kinds: dict[str, dict[str, float]] = {}
    for name, time in time_of.items():
        kind = kinds.setdefault(kind_of(name), {"ms": 0.0, "kernels": 0.0})
        kind["ms"] += time / 1000 / steps
        kind["kernels"] += count_of[name] / steps
    return {
        "step_ms": length / 1000 / steps,
        "kernel_ms": sum(time_of.values()) / 1000 / steps,
        "busy_ms": _union(spans) / 1000 / steps,
        "idle_share": 1 - _union(spans) / length if length else 0.0,
        "kernels": len(kernels) / steps,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1]["ms"])),
        "top": [
            {"name": name[:90], "ms": time / 1000 / steps, "kernels": count_of[name] / steps}
            for name, time in sorted(time_of.items(), key=lambda item: -item[1])[:20]
        ],
    }


def _streams(events: list[Mapping[str, Any]]) -> set[tuple[int, int]]:
    """Return (process, thread) of the streams of GPUs."""
    devices = {
        e["pid"]
        for e in events
        if e.get("name") == "process_name" and "gpu" in e["args"]["name"].lower()
    }
    return {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name"
        and e["pid"] in devices
        and "stream" in e["args"]["name"].lower()
    }


def _union(spans: list[tuple[float, float]]) -> float:
    """Return the length that intervals, sorted by their beginning, cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in spans:
        covered += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return covered


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return a summary as lines of text."""
    first = (
        f"{found['step_ms']:.2f} ms a step, {found['kernel_ms']:.2f} ms of kernels, "
        f"{found['kernels']:.0f} kernels, idle {100 * found['idle_share']:.1f} %"
    )
    kinds = [
        f"  {kind:15} {about['ms']:8.3f} ms {about['kernels']:8.1f} kernels"
        for kind, about in found["kinds"].items()
    ]
    top = [f"  {k['ms']:8.3f} ms {k['kernels']:8.1f} x {k['name']}" for k in found["top"]]
    return [first, *kinds, *top]
