"""Accelerators that are not here, for which XLA can compile all the same.

The compiler of a GPU or TPU runs on any machine: it needs a description of the device and its
plug-in, not the device. What it made can be read (memory, kernels, collectives) and not run.
"""

import importlib.util
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from affect_jax.errors import UserError, nearest
from affect_jax.runtime.platforms import Platform


class Gpu(NamedTuple):
    """What the compiler asks of an NVIDIA GPU; figures of NVIDIA's data sheets."""

    name: str
    capability: str
    cores: int  # streaming multiprocessors
    clock_ghz: float
    memory_gib: int
    bandwidth_gb: int  # per second
    l2_mib: int
    shared_kib: int  # per core


class Target(NamedTuple):
    """A device to compile for.

    Attributes:
      devices: descriptions, for `runtime.parallel.AbsentDevices`.
      platform: for `runtime.platforms.compiling_for`.
      options: of the compiler. Without a GPU nothing can be tuned by trying.
      about: its name in reports.
    """

    devices: list[jax.Device]
    platform: Platform
    options: dict[str, str | bool]
    about: str


GPUS = {
    "a100": Gpu("NVIDIA A100 80 GB", "8.0", 108, 1.41, 80, 2039, 40, 164),
    "h100": Gpu("NVIDIA H100 80 GB", "9.0", 132, 1.98, 80, 3350, 50, 228),
    "h200": Gpu("NVIDIA H200 141 GB", "9.0", 132, 1.98, 140, 4800, 50, 228),
}
# The smallest slices of which the compiler knows; one of their chips is compiled for.
TPUS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
_NO_TUNING: dict[str, str | bool] = {
    "xla_gpu_autotune_level": "0",
    "xla_gpu_enable_triton_gemm": False,
}
_THREADS, _WARP, _REGISTERS = 2048, 32, 65536  # per core; of a warp


def find(name: str) -> Target:
    """Return a target by its name.

    Raises:
      UserError: an unknown name, or the plug-in is not installed.
    """
    if name in GPUS:
        return _gpu(GPUS[name])
    if name in TPUS:
        return _tpu(name)
    raise UserError(f"--target {name!r}: {nearest(name, (*GPUS, *TPUS))}")


def _gpu(gpu: Gpu) -> Target:
    if not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)):
        raise UserError(
            f'to compile for an {gpu.name} install its plug-in: pip install -U "jax[cuda12]"'
        )
    # There is no driver whose version could be checked.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    jax.devices()  # finds the plug-in
    devices = _described(gpu.name, "cuda", target_config=description(gpu), topology="1x1x1")
    return Target(devices, Platform("gpu", gpu.capability), _NO_TUNING, gpu.name)


def _tpu(name: str) -> Target:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f'to compile for a TPU {name} install its plug-in: pip install -U "jax[tpu]"'
        )
    # Off a TPU host its metadata server does not answer.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return Target(_described(TPUS[name], "tpu")[:1], Platform("tpu"), {}, f"TPU {name}")


def _described(name: str, platform: str, **settings: str) -> list[jax.Device]:
    try:
        return topologies.get_topology_desc(name, platform, **settings).devices
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"the plug-in of {platform} cannot compile for {name}: {error}; give --target in a "
            "process that has not used JAX, and install a plug-in of JAX's own version"
        ) from error


def description(gpu: Gpu) -> str:
    """Return what XLA's compiler wants to know of a GPU, as its text protocol buffer."""
    major, minor = gpu.capability.split(".")
    kib, mib = 1024, 1024**2
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {gpu.cores}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory_gib * 1024 * mib}
  memory_bandwidth: {gpu.bandwidth_gb * 10**9}
  l2_cache_size: {gpu.l2_mib * mib}
  shared_memory_per_core: {gpu.shared_kib * kib}
  shared_memory_per_block: {48 * kib}
  shared_memory_per_block_optin: {(gpu.shared_kib - 1) * kib}
  registers_per_core_limit: {_REGISTERS}
  registers_per_block_limit: {_REGISTERS}
  threads_per_core_limit: {_THREADS}
  threads_per_block_limit: 1024
  threads_per_warp: {_WARP}
  fpus_per_core: {64 if gpu.capability == "8.0" else 128}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""
