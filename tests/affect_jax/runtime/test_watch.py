"""Lost processes are found by their beats; the others stop and say so."""

import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from affect_jax.runtime import watch
from affect_jax.runtime.watch import Judge
from tests.affect_jax import tiny


def test_a_process_without_a_new_beat_is_lost():
    judge = Judge(2, timeout=10)
    assert judge.verdict({0: "1"}, 0) == ""
    assert judge.verdict({0: "2", 1: "1"}, 9) == ""  # 1 was still starting
    assert judge.verdict({0: "3", 1: "1"}, 18) == ""
    assert judge.verdict({0: "4", 1: "1"}, 20) == "process 1 has not answered for 10 s"


def test_a_process_that_ended_is_not_lost():
    judge = Judge(2, timeout=10)
    assert judge.verdict({0: "1", 1: "ended"}, 0) == ""
    assert judge.verdict({0: "2", 1: "ended"}, 100) == ""
    assert judge.verdict({0: "3", 1: "failed"}, 101).startswith("process 1 ended with an error")


class FakeStore(dict):
    """The store of a job; `lost` while it cannot be reached."""

    lost = False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.lost:
            raise RuntimeError("no connection")
        self[key] = value

    def key_value_try_get(self, key):
        return self[key]

    def key_value_dir_get(self, key):
        return [(k, v) for k, v in list(self.items()) if k.startswith(key)]


@pytest.fixture
def watched(monkeypatch):
    """Starts a watcher of three processes with short waits: (rank, store) -> (watcher, left)."""
    monkeypatch.setattr(watch, "_PERIOD", 0.05)
    monkeypatch.setattr(watch, "_GRACE", 0.05)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    started = []

    def start(rank, store):
        monkeypatch.setattr(jax, "process_index", lambda: rank)
        left = threading.Event()
        watcher = watch._Watcher(store, 0.3, left.set)
        watcher.start()
        started.append(watcher)
        return watcher, left

    yield start
    for watcher in started:
        watcher.end("ended")
        watcher.join(5)


def test_process_0_leaves_after_the_others_have_read_its_verdict(watched, caplog):
    store = FakeStore({"affect_jax/processes/1": "7", "affect_jax/processes/2": "failed"})
    began = time.monotonic()
    _, left = watched(0, store)
    assert left.wait(5)
    assert time.monotonic() - began >= 4 * 0.05  # a period, the grace, and two periods more
    assert store["affect_jax/verdict"] == "process 2 ended with an error; its output says why"
    assert "its output says why. This process stops too" in caplog.text


def test_the_verdict_is_said_before_the_grace_and_a_process_may_end_by_itself(
    watched, monkeypatch, caplog
):
    monkeypatch.setattr(watch, "_GRACE", 60.0)
    watcher, left = watched(2, FakeStore({"affect_jax/verdict": "process 1 is lost"}))
    until = time.monotonic() + 5
    while "process 1 is lost" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    assert "process 1 is lost. This process stops too" in caplog.text
    watcher.end("failed")
    watcher.join(5)
    assert not watcher.is_alive() and not left.is_set()


def test_a_store_that_cannot_be_reached_is_told_once(watched, caplog):
    store = FakeStore()
    store.lost = True
    _, left = watched(1, store)
    time.sleep(0.3)
    assert caplog.text.count("cannot be watched: no connection") == 1
    store.lost = False
    store["affect_jax/verdict"] = "process 0 is lost"
    assert left.wait(5)  # the watch went on


class SlowStore(FakeStore):
    """A store into which beats are written slowly."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()

    def key_value_set(self, key, value, allow_overwrite=False):
        if value.isdigit():
            self.begun.set()
            time.sleep(0.2)
        super().key_value_set(key, value, allow_overwrite)


def test_a_beat_that_has_begun_does_not_overwrite_how_the_process_ended(watched, monkeypatch):
    monkeypatch.setattr(watch, "_GRACE", 5.0)
    store = SlowStore()
    watcher, _ = watched(1, store)
    assert store.begun.wait(5)
    watcher.end("ended")
    watcher.join(5)
    assert store["affect_jax/processes/1"] == "ended"


_WAITING = """
import sys, time
from affect_jax import runtime
from affect_jax.runtime import cluster, watch
runtime.setup_logging()
cluster.join(sys.argv[1], 2, int(sys.argv[2]), heartbeat_timeout=60)
with watch.over_processes(3):
    print("joined", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_others_stop_when_a_process_is_killed():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WAITING, coordinator, str(rank)],
            cwd=tiny.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        for line in process.stdout:
            if line == "joined\n":
                break
    time.sleep(3)  # both have given a beat
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    output, _ = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert time.monotonic() - killed < 30
    assert processes[0].returncode == 1, output
    assert "process 1 has not answered for 3 s" in output
    assert "resumes from the last checkpoint" in output
