"""Rows of what a drive has measured, for all suites that compare sides."""

import functools
from collections.abc import Mapping
from typing import Any

from affect_jax.benchmark import cases, drive, peer, suite
from affect_jax.benchmark.cases import Case


def peers(case: Case, results: drive.Results) -> dict[str, list[float]]:
    """Return what each peer is called, and its figures."""
    found = {}
    for mode in cases.PEER_MODES:
        if figures := results.figures.get((case.name, mode)):
            version = results.about.get(mode, {}).get("version", "?")
            source = "timm" if case.peer in peer.TIMM else case.peer
            differs = f" ({case.peer_differs})" if case.peer_differs else ""
            found[f"{source}, torch {version}, {mode}{differs}"] = figures
    return found


def profile(
    suite_name: str, label: str, found: Mapping[str, Any], step_ms: float
) -> list[dict[str, Any]]:
    """Return the rows of a profile.

    Args:
      suite_name, label: of the rows.
      found: by `kernels.summary`.
      step_ms: of a step that is not profiled.
    """
    row = functools.partial(suite.row, suite_name, label)
    # The profiler slows the host down: the first figure is that of undisturbed steps.
    idle = max(1 - found["busy_ms"] / step_ms, 0.0)
    return [
        row("idle_share", [idle], "of a step", lower_is_better=True),
        row("idle_share_profiled", [found["idle_share"]], "of a step", lower_is_better=True),
        row("kernels_per_step", [found["kernels"]], "kernels"),
        row("kernel_time", [found["kernel_ms"]], "ms"),
        *(row(f"kernel_time: {k}", [about["ms"]], "ms") for k, about in found["kinds"].items()),
        *(
            row(f"kernels: {k}", [about["kernels"]], "a step")
            for k, about in found["kinds"].items()
        ),
    ]
