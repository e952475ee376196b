"""Throughput, the progress bar and its plain lines."""

import io
import math

import pytest

from affect_jax.runtime import Progress, Throughput, duration


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_throughput_leaves_out_the_first_step_and_pauses():
    clock = Clock()
    throughput = Throughput(32, clock=clock)
    for seconds in (60.0, 1.0, 1.0):  # The first is the compilation
        with throughput.waiting():
            clock.now += 0.25
        clock.now += seconds - 0.25
        throughput.step()
    with throughput.paused():
        clock.now += 1000
    assert throughput.snapshot() == {"images_per_second": 32.0, "input_wait_share": 0.25}
    clock.now += 2
    throughput.step()
    assert throughput.snapshot() == {"images_per_second": 16.0, "input_wait_share": 0.0}


def test_throughput_of_the_first_step_alone_is_unknown():
    throughput = Throughput(32, clock=Clock())
    throughput.step()
    assert all(math.isnan(value) for value in throughput.snapshot().values())


def test_progress_without_a_terminal_is_a_line_now_and_then():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, 20, stream=stream, interval=10, clock=clock) as progress:
        for step in range(21, 101):
            clock.now += 100.0 if step == 21 else 1.0
            progress.update(step, loss=0.5, images_per_second=250.0)
            if step == 61:
                assert "ETA 0:39" in stream.getvalue().splitlines()[-1]  # not the pace of compiling
    lines = stream.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[1] == "step 31/100 (31%), loss 0.5, 250 images/s, ETA 1:09"
    assert lines[-1] == "step 100/100 (100%), loss 0.5, 250 images/s, ETA 0:00"


def test_progress_bar_on_a_terminal_survives_messages():
    stream = Terminal()
    with Progress(10, stream=stream) as progress:
        progress.update(1, loss=1.25)
        progress.log("validation accuracy 0.5")
        progress.status("validation")
        progress.update(10, loss=float("nan"), images_per_second=12.34)
    pieces = stream.getvalue().replace("\n", "\r").split("\r")
    assert "validation accuracy 0.5" in pieces
    assert any(piece.startswith("validation  10%") for piece in pieces)
    assert any("100% |" in p and "10/10" in p and "loss 1.25, 12.3 images/s" in p for p in pieces)


def test_progress_of_other_processes_is_silent():
    stream = Terminal()
    with Progress(10, is_main=False, stream=stream) as progress:
        progress.update(10, loss=1.0)
        progress.status("validation")
        progress.log("text")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3675, "1:01:15"), (59.7, "1:00")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
