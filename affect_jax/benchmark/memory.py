"""`benchmark memory`: device memory of every system's train step, from the compiler.

Each step is compiled for two batch sizes, without weights and without running it: on the first
device of this machine, or with `--target` for a device that is not here. The compiler's own
analysis gives the peak: arguments, results and temporary arrays, without those that share memory.
A line through both figures gives the largest batch for devices of several sizes, of which a tenth
is left to the runtime. Programs are compiled in parallel.
"""

import argparse
import concurrent.futures
import functools
import itertools
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from affect_jax import models
from affect_jax.benchmark import programs, suite, targets
from affect_jax.errors import UserError
from affect_jax.models.recompute import POLICIES
from affect_jax.runtime.parallel import AbsentDevices
from affect_jax.runtime.platforms import compiling_for, platform

SUITE = "memory"
GIB = 2**30
DEVICE_SIZES = (16, 24, 80, 140)  # GiB: TPU v5e, RTX 4090, H100, H200
# Most of the compiling is code generation, on which the memory does not depend.
_UNOPTIMISED: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
_USABLE = 0.9  # the rest: the runtime, libraries, batches ahead, gaps between arrays


class Case(NamedTuple):
    """One program: a system with a policy and a batch size."""

    system: str
    remat: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.system}, remat {self.remat}"


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = argparse.ArgumentParser("python -m affect_jax.benchmark memory", description=__doc__)
    parser.add_argument("--json", help="write the rows to this file")
    everything = ",".join(programs.SYSTEMS)
    parser.add_argument("--systems", default=everything, help=f"default: {everything}")
    parser.add_argument("--remat", default="none,products,blocks", help="policies to compare")
    parser.add_argument("--batch_sizes", default="16,64", help="two of them, per device")
    parser.add_argument("--dtype", default="bfloat16", help="of the computation")
    parser.add_argument("--jobs", type=int, default=8, help="programs compiled at a time")
    names = ", ".join((*targets.GPUS, *targets.TPUS))
    parser.add_argument("--target", default="", help=f"compile for a device not here: {names}")
    options = parser.parse_args(arguments)
    return suite.run(functools.partial(measure, options), options.json)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of all systems and policies.

    Raises:
      UserError: an option has a wrong value.
    """
    sizes = _sizes(options.batch_sizes)
    target = targets.find(options.target) if options.target else _this_device()
    compiler = dict(target.options)
    if target.platform.name == "cpu" or (options.target and target.platform.name == "gpu"):
        compiler |= _UNOPTIMISED
    devices = AbsentDevices(target.devices)
    with (
        compiling_for(target.platform),
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        waiting = {}
        for system in options.systems.split(","):
            model = programs.full_size(system, dtype=options.dtype, remat="none").model.name
            for remat in _policies(options.remat, model):
                config = programs.full_size(system, dtype=options.dtype, remat=remat)
                steps = programs.Programs(config, devices)
                # Lowered one after the other, compiled at the same time.
                for size in sizes:
                    case = Case(system, remat, size)
                    lowered = steps.train(size).lower()
                    waiting[case] = pool.submit(_peak, case, lowered, compiler)
        peaks = {case: future.result() for case, future in waiting.items()}
    return rows(peaks, f"{target.about}, {options.dtype}")


def _this_device() -> targets.Target:
    device = jax.devices()[0]
    return targets.Target([device], platform(), {}, device.device_kind)


def _peak(case: Case, lowered: jax.stages.Lowered, options: dict[str, str | bool]) -> int:
    peak = peak_bytes(lowered, options)
    print(f"{case}, batch {case.batch_size}: {peak / GIB:.2f} GiB", file=sys.stderr, flush=True)
    return peak


def peak_bytes(lowered: jax.stages.Lowered, options: dict[str, str | bool]) -> int:
    """Return the bytes that a program needs on each device while it runs.

    Args:
      lowered: of a program.
      options: of the compiler.
    """
    analysis = lowered.compile(options).memory_analysis()
    if analysis is None:
        raise UserError("the compiler of this platform gives no analysis of memory")
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def largest_batch(small: tuple[int, int], large: tuple[int, int], gibibytes: float) -> int:
    """Return the largest batch for a device, a multiple of 8; 0 if none fits.

    Args:
      small, large: (batch size, peak bytes) of two programs.
      gibibytes: memory of the device.

    Raises:
      UserError: the larger batch does not need more memory.
    """
    (batch, peak), (other_batch, other_peak) = small, large
    if other_peak <= peak:
        raise UserError(
            f"batches of {batch} and {other_batch} have peaks of {peak} and {other_peak} bytes, "
            "which do not grow; give --batch_sizes that lie further apart"
        )
    each = (other_peak - peak) / (other_batch - batch)
    fixed = peak - each * batch
    count = int((_USABLE * gibibytes * GIB - fixed) / each)
    return max(count // 8 * 8, 0)


def rows(peaks: Mapping[Case, int], about: str) -> list[dict[str, Any]]:
    """Return the rows of measured peaks: two batch sizes of each system and policy."""
    found = []
    for _, group in itertools.groupby(peaks, key=lambda case: (case.system, case.remat)):
        cases = list(group)
        for case in cases:
            name = f"{case}, batch {case.batch_size}"
            found.append(suite.row(SUITE, name, "peak_memory", [peaks[case] / GIB], "GiB"))
        points = [(case.batch_size, peaks[case]) for case in cases]
        for size in DEVICE_SIZES:
            count = largest_batch(points[0], points[-1], size)
            metric = f"largest_batch_{size}_gib"
            found.append(suite.row(SUITE, str(cases[0]), metric, [count], "images"))
    return [row | {"device": about} for row in found]


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UserError(f"--batch_sizes {text!r}; give two whole numbers, as 16,64")
    sizes = sorted({int(part) for part in parts})
    if len(sizes) != 2 or sizes[0] < 1:
        raise UserError(f"--batch_sizes {text!r}; give two different numbers above 0, as 16,64")
    return sizes


def _policies(text: str, model: str) -> list[str]:
    """Return the policies of `--remat` that a model has."""
    for policy in text.split(","):
        if policy not in POLICIES:
            raise UserError(f"--remat {text!r}; choose of {','.join(POLICIES)}")
    return [p for p in text.split(",") if p != "blocks" or models.takes(model, "remat")]
