import io
import json

import numpy as np
import pandas as pd
import pytest

from affect_jax.errors import UserError
from affect_jax.inference.face_table import FIXED, NO_FACE, FaceTable
from affect_jax.inference.writers import Printer, TableFile, format_of, short_line
from data_pipelines import locks

TABLE = FaceTable(("calm", "glad"))
COMMAND = {"model": "abc", "fps": 0.0}


def rows(count, start=0):
    made = []
    for i in range(start, start + count):
        row = TABLE.blank('a "b", ä.mp4', i, i / 3, "" if i % 2 else NO_FACE)
        if i % 2:
            row |= {"face": 0, "detection_score": np.float32(0.1 * i), "expression": "glad"}
            row |= TABLE.scores({"logits": np.array([0.0, i]), "valence": np.float64(-0.3)})
        made.append(row)
    return made


def read(path):
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False, na_values={c: [""] for c in FIXED[2:3]})
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])


def write(path, parts, **options):
    file = TableFile(path, TABLE, COMMAND, **options)
    for part in parts:
        file.write(part)
        file.save({"rows": part[-1]["frame"] + 1})
    file.finish({"rows": "all"})


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_crash_loses_nothing_and_the_table_is_the_same(tmp_path, suffix):
    whole, resumed = tmp_path / f"whole.{suffix}", tmp_path / f"resumed.{suffix}"
    write(whole, [rows(20)])
    file = TableFile(resumed, TABLE, COMMAND)
    file.write(rows(7))
    file.save({"rows": 7})
    file.write(rows(5, 7))
    file._file.flush()  # these lines reach the disk, but were never saved
    file.close()
    assert not resumed.exists()
    file = TableFile(resumed, TABLE, COMMAND)
    assert file.position == {"rows": 7}
    file.write(rows(13, 7))
    file.finish({"rows": 20})
    assert resumed.read_bytes() == whole.read_bytes()
    left = sorted(p.name for p in tmp_path.glob("resumed*"))
    assert left == [f"resumed.{suffix}", f"resumed.{suffix}.run.json"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_crash_before_the_first_save_of_a_resumed_run(tmp_path, suffix):
    path, whole = tmp_path / f"t.{suffix}", tmp_path / f"whole.{suffix}"
    write(whole, [rows(5)])
    file = TableFile(path, TABLE, COMMAND)
    file.write(rows(3))
    file.save({"rows": 3})
    file.write(rows(2, 3))
    file._file.flush()
    file.close()
    TableFile(path, TABLE, COMMAND).close()
    file = TableFile(path, TABLE, COMMAND)
    assert file.position == {"rows": 3}
    file.write(rows(2, 3))
    file.finish(None)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_process_that_waited_for_the_lock_leaves_the_finished_table(
    tmp_path, suffix, monkeypatch
):
    path = tmp_path / f"t.{suffix}"
    first = TableFile(path, TABLE, COMMAND)
    first.write(rows(3))
    real, finished = locks.take, []

    def late(file):
        """The other process finishes between the opening and the lock."""
        if not finished:
            first.finish({"rows": 3})
            finished.append(path.read_bytes())
        return real(file)

    monkeypatch.setattr(locks, "take", late)
    second = TableFile(path, TABLE, COMMAND)
    assert second.finished and [path.read_bytes()] == finished
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.run.json"]


def test_a_crash_while_an_unfinished_table_is_begun_again(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    write(path, [rows(2)])
    file = TableFile(path, TABLE, COMMAND | {"fps": 5.0}, overwrite=True)
    file.write(rows(3))
    file.save({"rows": 3})
    file.close()
    monkeypatch.setattr(TableFile, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TableFile(path, TABLE, COMMAND, overwrite=True)
    monkeypatch.undo()
    again = TableFile(path, TABLE, COMMAND)
    assert again.position is None and not again.finished
    again.close()


def test_all_formats_hold_the_same_numbers(tmp_path):
    paths = [tmp_path / f"t.{suffix}" for suffix in ("csv", "jsonl", "parquet")]
    for path in paths:
        write(path, [rows(3), rows(3, 3)])
    tables = [read(path) for path in paths]
    for table in tables:
        assert tuple(table.columns) == TABLE.columns
        assert table["file"].tolist() == ['a "b", ä.mp4'] * 6
        assert table["error"].tolist() == [NO_FACE, "", NO_FACE, "", NO_FACE, ""]
        assert table["face"].tolist() == [-1, 0, -1, 0, -1, 0]
        numbers = pd.to_numeric(table["p_glad"]).to_numpy(np.float32)
        expected = np.float32([np.nan, 1 / (1 + np.exp(-1)), np.nan, 1 / (1 + np.exp(-3))])
        np.testing.assert_array_equal(numbers[:4], expected)
    assert str(tables[2]["p_glad"].dtype) == "float32" and str(tables[2]["time"].dtype) == "float64"


def test_a_finished_table_is_left_alone(tmp_path):
    path = tmp_path / "t.csv"
    write(path, [rows(2)])
    before = path.read_bytes()
    again = TableFile(path, TABLE, COMMAND)
    assert again.finished and again.position == {"rows": "all"}
    assert path.read_bytes() == before


def test_a_crash_between_renaming_and_noting_so(tmp_path):
    path = tmp_path / "t.csv"
    write(path, [rows(2)])
    record = tmp_path / "t.csv.run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": False}))
    assert TableFile(path, TABLE, COMMAND).finished


def test_another_command_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "t.csv"
    TableFile(path, TABLE, COMMAND).close()
    with pytest.raises(UserError, match=r"differs in fps \(0.0, now 5.0\); name another --output"):
        TableFile(path, TABLE, COMMAND | {"fps": 5.0})
    write(path, [rows(1)], overwrite=True)
    assert path.exists()


def test_a_file_of_somebody_else_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("mine\n")
    with pytest.raises(UserError, match=r"exists, and no t\.csv\.run\.json says which command"):
        TableFile(path, TABLE, COMMAND)
    assert path.read_text() == "mine\n"


def test_two_processes_do_not_write_one_table(tmp_path):
    path = tmp_path / "t.csv"
    first = TableFile(path, TABLE, COMMAND)
    with pytest.raises(UserError, match="is being written by another process"):
        TableFile(path, TABLE, COMMAND)
    first.close()


@pytest.mark.parametrize("content", ["{", "[]", '{"command": {}}'])
def test_a_damaged_record(tmp_path, content):
    (tmp_path / "t.csv.run.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        TableFile(tmp_path / "t.csv", TABLE, COMMAND)


def test_a_partial_file_that_lost_lines(tmp_path):
    file = TableFile(tmp_path / "t.csv", TABLE, COMMAND)
    file.write(rows(3))
    file.save({})
    file.close()
    (tmp_path / "t.csv.partial").write_text("")
    with pytest.raises(UserError, match="is shorter than"):
        TableFile(tmp_path / "t.csv", TABLE, COMMAND)


def test_names_of_outputs(tmp_path):
    assert [format_of(n) for n in ("a.csv", "b.PARQUET", "c.jsonl", "d", "e.txt")] == [
        "csv", "parquet", "jsonl", "", "",
    ]  # fmt: skip
    with pytest.raises(UserError, match="the name must end in"):
        TableFile(tmp_path / "t.xlsx", TABLE, COMMAND)


def test_a_pipe_gets_csv_and_a_terminal_short_lines():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        printer = Printer(stream, TABLE)
        printer.write(rows(2))
        printer.finish(None)
    assert pipe.getvalue().splitlines()[0] == ",".join(TABLE.columns)
    assert len(pipe.getvalue().splitlines()) == 3
    assert terminal.getvalue().splitlines() == [
        'a "b", ä.mp4 0.00 s: no_face',
        'a "b", ä.mp4 0.33 s face 0: glad 0.73, valence -0.30',
    ]


def test_short_line_of_a_track():
    row = rows(2)[1] | {"track": 4, "error": "odd"}
    assert short_line(row).endswith("track 4: glad 0.73, valence -0.30, odd")
