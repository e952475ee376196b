"""Flags of XLA's CPU compiler under which programs compile in the shortest time.

Tests compile far more than they compute.
"""

import importlib.util
import mmap
import pathlib

_FLAGS = (
    "--xla_backend_optimization_level=0",
    # The older emitters compile a gradient of ResNet-18 in a third of the time.
    "--xla_cpu_use_fusion_emitters=false",
    # Split into modules, a program takes other tests' cores and a third more time.
    "--xla_cpu_parallel_codegen_split_count=1",
)


def flags(devices: int) -> tuple[str, ...]:
    """Return the flags, and the one for a number of virtual devices.

    XLA ends the process at a flag that it does not know, and releases differ: only flags whose
    names stand in the installed library are returned.
    """
    package = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    devices_flag = f"--xla_force_host_platform_device_count={devices}"
    library = package / "libjax_common.so"
    if not library.exists():
        return (devices_flag,)
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        known = (f for f in _FLAGS if text.find(f.lstrip("-").split("=")[0].encode()) >= 0)
        return devices_flag, *known
