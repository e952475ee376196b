"""`benchmark scaling`: weak scaling, the same batch on each of 1, 2, 4 and 8 devices.

Each number of devices trains in a process of its own. On a CPU the devices are virtual and share
its cores: images a second that stay the same then say that mapping and collectives cost nothing. On
GPUs the ratio to one device, divided by their number, is the efficiency. `--paper` measures
nothing: it calculates what to expect of 8 GPUs and of a TPU slice, see `interconnect`.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from typing import Any

from affect_jax.benchmark import interconnect, programs, suite
from affect_jax.benchmark.train import add_options, settings, training
from affect_jax.errors import UserError

SUITE = "scaling"
_COUNT = "--xla_force_host_platform_device_count"
_TIMEOUT = 1800


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = suite.parser(SUITE, __doc__)
    add_options(parser, system="resnet18_faces", batch_size=16, steps=3)
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices")
    parser.add_argument("--mapping", default="pmap", help="pmap or shard_map")
    parser.add_argument("--paper", action="store_true", help="calculate, do not measure")
    everything = ",".join(programs.SYSTEMS)
    parser.add_argument("--systems", default=everything, help=f"of --paper; default: {everything}")
    parser.add_argument("--utilisation", type=float, default=0.3, help="of --paper, in (0, 1]")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(_worker(options)))
        return 0
    measured = functools.partial(paper if options.paper else measure, options)
    return suite.run(measured, options.json, training=True)


def paper(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows that are calculated.

    Raises:
      UserError: an option has a wrong value.
    """
    if not 0 < options.utilisation <= 1:
        raise UserError(f"--utilisation {options.utilisation}; give a fraction in (0, 1], as 0.3")
    found = []
    for system in options.systems.split(","):
        found += interconnect.rows(system, options.batch_size, options.utilisation)
    return found


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of each number of devices, each compared with the first.

    Raises:
      UserError: an option has a wrong value, or a process ends with an error.
    """
    counts = _counts(options.devices)
    figures = {count: _rates(count, options) for count in counts}
    case = f"{options.system}, {options.mapping}, batch {options.batch_size} a device"
    return [
        suite.row(
            SUITE,
            f"{case}, {count} devices",
            "images_per_second",
            figures[count]["rates"],
            "images/s",
            baseline=f"{counts[0]} devices" if count != counts[0] else None,
            baseline_figures=figures[counts[0]]["rates"] if count != counts[0] else None,
        )
        | {"devices": count, "device": figures[count]["device"]}
        for count in counts
    ]


def _rates(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return images/s of a process that sees `count` devices."""
    given = vars(options) | {"worker": count, "json": None}
    command = [sys.executable, "-m", "affect_jax.benchmark", SUITE]
    command += [f"--{name}={value}" for name, value in given.items() if value and name != "paper"]
    flags = re.sub(rf"{_COUNT}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} {_COUNT}={count}".strip(),
        "CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[:count]),
    }
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT, check=False
    )
    if done.returncode:
        raise UserError(f"the process with {count} devices ended with an error; see its output")
    return json.loads(done.stdout.splitlines()[-1])


def _worker(options: argparse.Namespace) -> dict[str, Any]:
    """Return images/s of this process, whose devices are all used."""
    import jax

    from affect_jax.runtime import xla_flags

    xla_flags.choose(training=True)
    if jax.device_count() != options.worker:
        raise UserError(
            f"--devices {options.worker}: this machine has {jax.device_count()} of kind "
            f"{jax.devices()[0].device_kind}"
        )
    options.batch_size *= options.worker
    config = settings(options)
    config.parallel.mapping = options.mapping
    run = training(config, options.steps)
    rates = [run() for _ in range(options.repeats)]
    return {"rates": rates, "device": jax.devices()[0].device_kind}


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(counts) != len(text.split(",")) or 0 in counts or not counts:
        raise UserError(f"--devices {text!r}; give numbers of devices above 0, as 1,2,4,8")
    return counts
