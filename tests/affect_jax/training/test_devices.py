"""Every system does the same on one device, on eight, and in two processes."""

import functools
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from affect_jax.runtime.parallel import MAPPINGS, Mapper
from tests.affect_jax import small_systems, tiny
from tests.affect_jax.training import steps


@functools.cache
def by_one(name):
    with jax.enable_x64(True):
        return steps.two_steps(name, Mapper("pmap", jax.devices()[:1]), "float64")


@pytest.mark.slow
@pytest.mark.parametrize("name", small_systems.SYSTEMS)
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_eight_devices_equal_one(mapping, name):
    """Losses, weights and statistics of two steps, in float64."""
    one, one_terms = by_one(name)
    with jax.enable_x64(True):
        eight, eight_terms = steps.two_steps(name, Mapper(mapping), "float64")
    for step in range(2):
        assert one_terms[step].keys() == eight_terms[step].keys()
        for term, value in one_terms[step].items():
            np.testing.assert_allclose(
                eight_terms[step][term], value, rtol=1e-8, atol=1e-10, err_msg=term
            )
    for part in ("params", "stats"):
        for path, value in one[part].items():
            np.testing.assert_allclose(eight[part][path], value, 1e-7, 1e-9, err_msg=path)


def job(result, mapping, processes: int) -> None:
    """Run `steps` on four devices; wait until all processes have ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.affect_jax.training.steps", str(result), mapping]
    running = [
        subprocess.Popen(
            [*command, *((coordinator, str(processes), str(rank)) if processes > 1 else ())],
            cwd=tiny.ROOT,
            env={**os.environ, "XLA_FLAGS": tiny.xla_flags(4 // processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in running:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_two_processes_of_two_devices_equal_one_of_four(mapping, tmp_path):
    """All systems in one pair of processes, in float32: rounding alone differs."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    job(one, mapping, 1)
    job(two, mapping, 2)
    expected, found = (json.loads(file.read_text()) for file in (one, two))
    assert found.keys() == set(small_systems.SYSTEMS)
    for name, parts in expected.items():
        for ours, theirs in zip(found[name], parts, strict=True):
            assert ours.keys() == theirs.keys()
            for term, value in theirs.items():
                np.testing.assert_allclose(
                    ours[term], value, rtol=1e-3, atol=1e-5, err_msg=f"{name}: {term}"
                )
