"""Shared set-up: eight virtual CPU devices, a compilation cache, small fixtures."""

import ctypes
import gc
import os
import pathlib
import tempfile

from tests import xla

# Before JAX starts: the default suite needs no accelerator and several devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for _FLAG in xla.flags(devices=8):
    if _FLAG.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "affect_jax_test_cache")
)
# Tests build the same small programs again and again, and processes of their own do.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402  (after the environment is set)
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# The first example of a property may compile; a busy machine is no failure.
settings.register_profile("affect_jax", deadline=None, derandomize=True)
settings.load_profile("affect_jax")

# Files that take longest come first: a worker that begins one at the end keeps the other waiting.
# (xdist would begin with the files of most tests: hence --no-loadscope-reorder.)
_LONG = ("test_resume.py", "test_train.py", "test_fan.py", "test_emofan_golden.py")

# Bytes in memory from which a worker drops the programs that it compiled, which takes a second.
_LARGE = 2 * 2**30


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="module", autouse=True)
def _drop_programs():
    """After a file, give back what compiling took of the memory of a worker that is large."""
    yield
    pages = pathlib.Path("/proc/self/statm")  # of Linux
    if not pages.exists() or int(pages.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") > _LARGE:
        jax.clear_caches()
        gc.collect()
        # Without it, glibc keeps what it was given back: 1.3 GB became 0.8 with it, 1.3 without.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
