"""Weak scaling on paper: what a train step sends, and how long that takes on fast links.

A step sends the gradients once, and small vectors for each BatchNorm, forward and backward. MixUp
and CutMix gather the images of the global batch, and relations between images their features. The
sizes are read from the lowered program. An all-reduce of B bytes over n devices takes
`latency + 2 (n - 1) / n B / bandwidth`, an all-gather of B bytes of each device, or the
reduce-scatter of its gradient, `latency + (n - 1) B / bandwidth`. Nothing is assumed to overlap
with computation, which is true of BatchNorm and pessimistic for gradients. Computation takes the
operations of `train.step_flops` at an assumed fraction of the peak rate.
"""

import dataclasses
import functools
import re
from typing import Any

from jax import export

from affect_jax.benchmark import programs, suite
from affect_jax.benchmark.collectives import Collective
from affect_jax.benchmark.train import step_flops
from affect_jax.runtime.parallel import AbsentDevices

_COLLECTIVE = re.compile(
    r'"stablehlo\.(?P<kind>all_reduce|all_gather|reduce_scatter)".*?'
    r": \((?P<given>[^)]*)\) -> (?P<results>[^\n]*)",
    re.DOTALL,
)
_FUNCTION = re.compile(r'func\.func (?P<public>public )?(private )?@"?(?P<name>[^"(]+)"?\(')
_CALL = re.compile(r'\bcall @"?(?P<name>[^"(]+)"?\(')
_TENSOR = re.compile(r"tensor<(?P<shape>(?:\d+x)*)(?P<type>[a-z]+)(?P<bits>\d+)>")
_ALL_REDUCE = "all-reduce"
# Vectors of BatchNorm and sums of the loss are smaller, joined gradients are larger.
_SMALL = 64 * 2**10


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices and the links between them.

    Attributes:
      name: for people.
      devices: their number.
      peak: bf16 FLOP/s of a device.
      bandwidth: bytes/s at which a device sends in an all-reduce over all devices.
      latency: seconds of the smallest all-reduce.
    """

    name: str
    devices: int
    peak: float
    bandwidth: float
    latency: float


# H100 SXM: NVIDIA gives 989 TFLOP/s and 900 GB/s of NVLink, both directions together. TPU v5e:
# Google gives 197 TFLOP/s and 1600 Gbit/s a chip, 45 GB/s for each of four links in one direction;
# rings along both axes of the torus use all of them. Latencies are assumptions: one kernel and its
# synchronisation for NVLink, 32 hops of 1 us in a torus of 16 x 16.
MACHINES = (
    Machine("8 x H100 (NVLink)", 8, 989e12, 450e9, 20e-6),
    Machine("TPU v5e-256", 256, 197e12, 180e9, 32e-6),
)


def sent(text: str) -> list[Collective]:
    """Return the collectives of a lowered program, given as StableHLO.

    A function's count once for each call of it, a loop's once. Their bytes are those that one
    device has of its own: what it gathers from the others and what it scatters to them grow with
    their number.
    """
    starts = list(_FUNCTION.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    bodies = {
        start["name"]: text[start.end() : end] for start, end in zip(starts, ends, strict=True)
    }

    @functools.cache
    def of(name: str) -> list[Collective]:
        found = [
            Collective(
                match["kind"].replace("_", "-"), min(map(_size, match.group("given", "results")))
            )
            for match in _COLLECTIVE.finditer(bodies[name])
        ]
        return found + [c for call in _CALL.finditer(bodies[name]) for c in of(call["name"])]

    return [c for start in starts if start["public"] for c in of(start["name"])]


def _size(types: str) -> int:
    return sum(_bytes(tensor) for tensor in _TENSOR.finditer(types))


def _bytes(tensor: re.Match) -> int:
    count = int(tensor["bits"]) // 8 or 1
    for side in tensor["shape"].split("x")[:-1]:
        count *= int(side)
    return count


def seconds(collectives: list[Collective], machine: Machine) -> float:
    """Return the time of collectives, one after the other."""
    others = machine.devices - 1
    times = [
        size * (2 * others / machine.devices if kind == _ALL_REDUCE else others)
        for kind, size in collectives
    ]
    return len(collectives) * machine.latency + sum(times) / machine.bandwidth


def rows(system: str, batch_size: int, utilisation: float) -> list[dict[str, Any]]:
    """Return the expected efficiency of a system at full size on each of `MACHINES`.

    Args:
      system: of `programs.SYSTEMS`.
      batch_size: images of a device.
      utilisation: fraction of the peak rate that computation reaches on one device.
    """
    config = programs.full_size(system)
    count = 8  # what each device has of its own does not depend on it
    program = programs.Programs(config, AbsentDevices(count)).train(count * batch_size)
    exported = export.export(program.function, platforms=("tpu",))(*program.arguments)
    collectives = sent(exported.mlir_module())
    sizes = [size for kind, size in collectives if kind == _ALL_REDUCE]
    small = [size for size in sizes if size < _SMALL]
    moved = [size for kind, size in collectives if kind != _ALL_REDUCE]
    case = f"{system}, batch {batch_size} a device"
    found = [
        suite.row("scaling", case, "gradient_bytes", [sum(sizes) - sum(small)], "B"),
        suite.row("scaling", case, "batchnorm_bytes", [sum(small)], "B"),
        suite.row("scaling", case, "all_reduces", [len(sizes)], "a step"),
        suite.row("scaling", case, "gathered_bytes", [sum(moved)], "B of each device"),
        suite.row("scaling", case, "gathers", [len(moved)], "a step"),
    ]
    work = step_flops(config) * batch_size
    for machine in MACHINES:
        compute, waiting = work / (machine.peak * utilisation), seconds(collectives, machine)
        place = f"{case}, {machine.name}"
        found += [
            suite.row("scaling", place, "compute_ms", [1e3 * compute], "ms"),
            suite.row("scaling", place, "communication_ms", [1e3 * waiting], "ms"),
            suite.row("scaling", place, "efficiency", [compute / (compute + waiting)], "of 1"),
        ]
    return found
