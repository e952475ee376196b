"""Weak scaling: rows of several numbers of devices, and what to expect on paper."""

import json
import subprocess

import jax
import numpy as np
import pytest

from affect_jax.benchmark import interconnect, scaling
from affect_jax.benchmark.collectives import Collective
from affect_jax.benchmark.interconnect import Machine
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import AbsentDevices


def lowered(step):
    devices = AbsentDevices(4)
    state = devices.replicate({"a": np.zeros((5, 2), np.float32), "b": np.zeros(3, np.float32)})
    batch = devices.place({"x": np.zeros(8, np.float32)})
    program = devices.map(step).program(state, batch)
    exported = jax.export.export(program.function, platforms=("tpu",))(*program.arguments)
    return exported.mlir_module()


def test_all_reduces_of_a_lowered_program_are_found():
    def step(state, batch):
        total = jax.lax.psum(batch["x"].sum(), parallel.AXIS)
        return parallel.mean_over_replicas({"a": state["a"] * total, "b": state["b"]})

    assert interconnect.sent(lowered(step)) == [("all-reduce", 4), ("all-reduce", 4 * 13)]


def test_a_function_counts_at_each_call():
    @jax.jit
    def inner(x):
        return jax.lax.psum(x, parallel.AXIS) * 2

    @jax.jit
    def outer(x):
        return inner(inner(x))

    def step(state, batch):
        x = batch["x"].sum()
        return inner(outer(outer(x)) + jax.lax.psum(state["b"], parallel.AXIS).sum())

    text = lowered(step)
    assert text.count("stablehlo.all_reduce") < 6
    assert sorted(interconnect.sent(text)) == [("all-reduce", 4)] * 5 + [("all-reduce", 12)]


def test_what_is_gathered_counts_as_what_each_device_has_of_it():
    def step(state, batch):
        def loss(x):
            return (jax.lax.all_gather(x, parallel.AXIS, tiled=True) ** 2).sum()

        pixels = jax.lax.all_gather(batch["x"].astype(np.uint8), parallel.AXIS)
        return (
            state["b"].sum()
            + pixels.sum()
            + jax.lax.pmean(jax.grad(loss)(batch["x"]).sum(), parallel.AXIS)
        )

    found = interconnect.sent(lowered(step))
    assert sorted(found) == [
        ("all-gather", 2), ("all-gather", 8), ("all-reduce", 4), ("reduce-scatter", 8)
    ]  # fmt: skip


def test_time_of_collectives():
    machine = Machine("four", devices=4, peak=1.0, bandwidth=1e9, latency=1e-5)
    # Three quarters of the bytes are sent twice.
    reduced = [Collective("all-reduce", 2_000_000), Collective("all-reduce", 0)]
    assert interconnect.seconds(reduced, machine) == pytest.approx(2e-5 + 3e-3)
    gathered = [Collective("all-gather", 1_000_000)]
    assert interconnect.seconds(gathered, machine) == pytest.approx(1e-5 + 3e-3)


def test_wrong_options_are_explained(capsys):
    assert scaling.main(["--devices=1,x"]) == 2
    assert "--devices '1,x'; give numbers" in capsys.readouterr().err
    assert scaling.main(["--paper", "--utilisation=30"]) == 2
    assert "give a fraction in (0, 1]" in capsys.readouterr().err
    assert scaling.main(["--paper", "--systems=vit"]) == 2
    assert "no system 'vit'" in capsys.readouterr().err


def test_rows_compare_with_the_fewest_devices(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = []

    def run(command, env, **_):
        count = int(env["XLA_FLAGS"].split("device_count=")[1].split()[0])
        seen.append((command, env))
        rates = json.dumps({"rates": [10.0 * count, 12.0 * count], "device": "cpu"})
        return subprocess.CompletedProcess(command, 0, f"noise\n{rates}\n")

    monkeypatch.setattr(subprocess, "run", run)
    file = tmp_path / "rows.json"
    assert scaling.main(["--devices=1,4", "--batch_size=8", f"--json={file}"]) == 0
    one, four = json.loads(file.read_text())
    assert (one["devices"], one["value"], one["ratio"]) == (1, 11.0, None)
    assert (four["devices"], four["value"], four["ratio"]) == (4, 44.0, 4.0)
    command, environment = seen[1]
    assert "--worker=4" in command and "--batch_size=8" in command
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the GPUs are hidden
    assert scaling.main(["--devices=2"]) == 0
    assert seen[-1][1]["CUDA_VISIBLE_DEVICES"] == ""


def test_a_failed_process_ends_the_suite(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 2, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert scaling.main(["--devices=2"]) == 2
    assert "the process with 2 devices ended with an error" in capsys.readouterr().err


@pytest.mark.slow
def test_two_numbers_of_virtual_devices(tmp_path):
    file = tmp_path / "rows.json"
    options = ["--devices=1,2", "--batch_size=4", "--image_size=32", "--steps=1", "--repeats=2"]
    assert scaling.main([*options, f"--json={file}"]) == 0
    rows = json.loads(file.read_text())
    assert [row["devices"] for row in rows] == [1, 2]
    assert all(row["value"] > 0 and row["n"] == 2 for row in rows)
