"""A full disk is recognised in the errors of all libraries, and told in one line."""

import errno
import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines import disk, prepare
from data_pipelines.datasets import writing

FULL = [
    OSError(errno.ENOSPC, "No space left on device", "/data/x"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("write() failed: No space left on device; writing /data/x; at byte 1048576"),
    ValueError("RESOURCE_EXHAUSTED: Error writing 'a' [OS error 28: No space left on device]"),
    OSError("1000 requested and 45 written"),  # numpy.ndarray.tofile
]
OTHERS = [
    OSError(errno.EACCES, "Permission denied"),
    ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes"),
    ValueError("space"),
    None,
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_recognised_and_told_in_one_line(error):
    assert disk.is_full(error)
    with pytest.raises(disk.DiskFullError) as caught, disk.explained("/out"):
        try:
            raise error
        except Exception as inner:
            raise KeyError("what came of it") from inner
    text = str(caught.value)
    assert "disk is full" in text and "free some space" in text and "\n" not in text
    assert caught.value.errno == errno.ENOSPC and "/out" in text
    # What has been explained is left as it is.
    with pytest.raises(disk.DiskFullError) as again, disk.explained("/elsewhere"):
        raise caught.value
    assert again.value is caught.value


@pytest.mark.parametrize("error", OTHERS)
def test_other_errors_are_left_as_they_are(error):
    assert not disk.is_full(error)
    if error is not None:
        with pytest.raises(type(error)) as caught, disk.explained("/out"):
            raise error
        assert caught.value is error


@pytest.fixture
def pictures(tmp_path):
    lines = ["path,expression,person,split"]
    for i in range(12):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{('happy', 'sad')[i % 2]},p{i},{('train', 'test')[i % 2]}")
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    return tmp_path


def close(self):
    raise FULL[2]


def write_nothing(*_, **__):
    raise FULL[0]


@pytest.mark.parametrize(
    ("place", "name", "fails"),
    [
        (writing.array_record_module, "ArrayRecordWriter", None),
        (np, "savez", write_nothing),
        (prepare.tempfile, "TemporaryDirectory", write_nothing),
    ],
)
def test_prepare_says_so_and_leaves_nothing(place, name, fails, pictures, monkeypatch, capsys):
    class Writer(io.BytesIO):
        def __init__(self, *_):
            super().__init__()

        close = close

    monkeypatch.setattr(place, name, fails or Writer)
    arguments = ["--dataset", "manifest", "--manual_dir", str(pictures / "faces.csv")]
    assert prepare.main([*arguments, "--data_dir", str(pictures / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "pictures/s" not in line]
    assert len([line for line in lines if "disk is full" in line]) == 1, lines
    assert "free some space" in lines[-1] and not any("Traceback" in line for line in lines)
    left = [p.name for p in (pictures / "out").rglob("*") if p.is_file()]
    assert left in ([], [".lock"])
    monkeypatch.undo()
    assert prepare.main([*arguments, "--data_dir", str(pictures / "out")]) == 0
