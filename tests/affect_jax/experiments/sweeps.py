"""Sweep files for tests, run on the tiny config."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

from affect_jax import config as config_lib
from affect_jax.experiments import sweep
from tests.affect_jax import tiny

PLAIN = '"rows": {"R+C": {}, "MSE": {"loss.regression": "mse"}}, "reference": "R+C"'
STAGED = (
    '"seeds": (0,), "stages": {{"trunk": {{"seed": 9, "num_steps": {}}}}}, '
    '"shared": {{"init_from": "stage:trunk"}}, "rows": {{"a": {{}}, "b": {{}}}}'
)


def write_sweep(folder: pathlib.Path, described: str) -> pathlib.Path:
    """Write a sweep file with the tiny config and the given entries of `get_sweep`."""
    path = folder / "sweep.py"
    path.write_text(
        textwrap.dedent(f"""
        from tests.affect_jax import tiny

        def get_config():
            return tiny.config(landmark_stage__steps=0)

        def get_sweep(config):
            return {{{described}}}
        """)
    )
    return path


def run_sweep(path: pathlib.Path, workdir: pathlib.Path, **changes: object) -> int:
    """Run a sweep file with changes of the config, dotted keys with `__` for the dots."""
    config = config_lib.load_file(path)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return sweep.run(config, workdir, path)


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    """Return the lines of a table."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def start(*arguments: str) -> subprocess.Popen:
    """Start Python in the repository on one device."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tiny.ROOT,
        env={**os.environ, "XLA_FLAGS": tiny.xla_flags(1)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(process: subprocess.Popen, ready) -> None:
    """Send SIGKILL as soon as `ready()`."""
    try:
        deadline = time.monotonic() + 900
        while not ready():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
