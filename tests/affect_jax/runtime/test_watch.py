"""Lost processes are found by their beats; the others stop and say so."""

import signal
import socket
import subprocess
import sys
import time

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
