"""Rows of metrics and TensorBoard events: written whole, resumed, read back."""

import errno
import json
import math
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.runtime import MetricWriter, read_metrics
from affect_jax.runtime.metric_writer import to_number


def lines_of(workdir: Path) -> list[str]:
    return (workdir / "metrics.jsonl").read_text().splitlines()


def events_of(workdir: Path):
    """All events of all event files, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(workdir.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        content, offset = path.read_bytes(), 0
        while offset < len(content):
            (length,) = struct.unpack_from("<Q", content, offset)
            yield Event.FromString(content[offset + 12 : offset + 12 + length])
            offset += 16 + length


def test_rows_hold_what_was_written(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": jnp.float32(0.5), "n": np.int64(3), "b": jnp.bfloat16(2)})
        writer.write(np.int64(2), "test", {"accuracy": np.array([0.25])}, final=True)
    first, last = (json.loads(line) for line in lines_of(tmp_path))
    assert {k: first[k] for k in ("step", "split", "loss", "n", "b")} == {
        "step": 1, "split": "train", "loss": 0.5, "n": 3, "b": 2.0,
    }  # fmt: skip
    assert abs(first["time"] - (tmp_path / "metrics.jsonl").stat().st_mtime) < 60
    assert last["final"] is True and last["accuracy"] == 0.25 and "final" not in first


def test_float32_values_come_back_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    with MetricWriter(tmp_path) as writer:
        for step, value in enumerate(values):
            writer.write(step, "train", {"loss": value})
    back = np.array([row["loss"] for row in read_metrics(tmp_path)], np.float32)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), None])
def test_what_json_has_no_word_for_becomes_null(tmp_path, value):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": value})
    assert '"loss": null' in lines_of(tmp_path)[0]
    json.loads(lines_of(tmp_path)[0], parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("value", [np.zeros(2), "0.5", 1j, [1.0, 2.0]])
def test_a_metric_must_be_one_number(value):
    with pytest.raises(TypeError, match="accuracy"):
        to_number("accuracy", value)


def test_names_of_the_row_itself_are_refused(tmp_path):
    with MetricWriter(tmp_path) as writer, pytest.raises(ValueError, match="step"):
        writer.write(1, "train", {"step": 3})


def test_rows_are_on_disk_at_once(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1  # Before close: the process may be killed
    writer.close()
    writer.write(2, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1


def test_other_processes_write_nothing(tmp_path):
    with MetricWriter(tmp_path / "run", is_main=False, resume_step=3) as writer:
        writer.write(1, "train", {"loss": 1.0})
    assert not (tmp_path / "run").exists()


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.integers(0, 20), max_size=12).map(sorted),
    resume=st.integers(0, 20),
    cut=st.integers(0, 400),
)
def test_resume_after_a_kill_keeps_whole_rows_up_to_the_checkpoint(
    tmp_path_factory, steps, resume, cut
):
    workdir = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"step": s, "split": "train", "time": 0.0, "loss": 0.5}) for s in steps]
    content = "".join(line + "\n" for line in lines)[: cut or None]
    (workdir / "metrics.jsonl").write_text(content)
    whole = content.count("\n")
    MetricWriter(workdir, resume_step=resume).close()
    assert lines_of(workdir) == [
        line for step, line in zip(steps[:whole], lines[:whole], strict=True) if step <= resume
    ]
    assert not list(workdir.glob(".*"))


def test_a_run_from_scratch_sets_earlier_rows_aside(tmp_path):
    for loss in (1.0, 2.0):
        with MetricWriter(tmp_path, resume_step=None) as writer:
            writer.write(1, "train", {"loss": loss})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [2.0]
    assert '"loss": 1.0' in (tmp_path / "metrics.previous.jsonl").read_text()


def test_added_evaluations_leave_the_rows_of_a_run_alone(tmp_path):
    with MetricWriter(tmp_path) as run:
        run.write(1, "train", {"loss": 1.0})
        with MetricWriter(tmp_path, append=True) as extra:
            extra.write(1, "test", {"loss": 3.0}, about={"dataset": "sfew"})
        run.write(2, "test", {"loss": 2.0}, final=True)
    with MetricWriter(tmp_path, append=True) as extra:
        extra.write(2, "test", {"loss": 4.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0]
    rows = read_metrics(tmp_path / "eval.jsonl")
    assert [(row["loss"], row.get("dataset")) for row in rows] == [(3.0, "sfew"), (4.0, None)]
    with MetricWriter(tmp_path, append=True) as extra, pytest.raises(ValueError, match="'loss'"):
        extra.write(3, "test", {"loss": 5.0}, about={"loss": "ccc"})


def test_a_run_that_goes_on_drops_the_test_rows_of_its_former_end(tmp_path):
    with MetricWriter(tmp_path) as run:
        run.write(4, "train", {"loss": 1.0})
        run.write(4, "test_flip", {"loss": 2.0})
        run.write(4, "test", {"loss": 2.0}, final=True)
    with MetricWriter(tmp_path, resume_step=4) as run:
        run.write(5, "train", {"loss": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path)] == [4, 5]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"loss": 1}', '{"step": "x", "split": "a"}'])
def test_foreign_lines_are_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        MetricWriter(tmp_path, resume_step=5)
    assert lines_of(tmp_path)[1] == line


class _FullDisk:
    """A file on a disk that takes half of the next line."""

    def __init__(self, file):
        self._file = file

    def write(self, line: bytes) -> int:
        return self._file.write(line[: len(line) // 2])

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_says_so_and_leaves_whole_rows(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, "train", {"loss": 1.0})
        before = (tmp_path / "metrics.jsonl").read_bytes()
        writer._file = _FullDisk(writer._file)
        with pytest.raises(OSError, match=r"metrics\.jsonl: the disk is full.*free") as caught:
            writer.write(2, "train", {"loss": 1.0})
        assert caught.value.errno == errno.ENOSPC
        assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_workdir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        MetricWriter(tmp_path / "run")


def test_events_hold_the_scalars_and_hide_what_a_resume_repeats(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(4, "train", {"loss": 0.5, "gone": math.nan})
        writer.write(8, "validation", {"loss": 0.25})
    with MetricWriter(tmp_path, resume_step=4) as writer:
        writer.write(8, "validation", {"loss": 0.75})
    events = list(events_of(tmp_path))
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [
        (4, "train/loss", 0.5), (8, "validation/loss", 0.25), (8, "validation/loss", 0.75),
    ]  # fmt: skip
    starts = [e.step for e in events if e.HasField("session_log")]
    assert starts == [0, 5]  # TensorBoard drops steps of earlier files from there on
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
